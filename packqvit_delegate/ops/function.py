"""Any function of one variable, as a text: in float graphs only, where a table takes its place later."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch

from ..errors import PackQViTError
from .library import LIBRARY

aten = torch.ops.aten

_UNTAGGED = (aten.hardswish.default, aten.log_sigmoid.default, aten.where.ScalarOther, aten.where.ScalarSelf)
"""What PyTorch has not tagged as pointwise, and is."""
_NUMBERS_AS_TENSORS = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
"""Operators that take a number in the place of a tensor."""
LITERALS = (bool, int, float, str, type(None))
"""Operands that are no values."""
_NAMED = {"inf": float("inf"), "nan": float("nan")}


@dataclasses.dataclass(frozen=True)
class Value:
    """What a step reads: 0 is the variable, i the result of the i-th step."""

    index: int


Operand = Value | bool | int | float | str | None


@dataclasses.dataclass(frozen=True)
class Step:
    """One operator of a function.

    Attributes:
        operator: Pointwise, of one result.
        args: In the order of its schema.
        kwargs: Name and value.
    """

    operator: torch._ops.OpOverload
    args: tuple[Operand, ...]
    kwargs: tuple[tuple[str, Operand], ...] = ()


def is_pointwise(target: Any) -> bool:
    """Whether an operator may be a step: of ATen, element by element, without randomness and without writing."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten" or target._schema.is_mutable:
        return False
    known = target in _UNTAGGED or torch.Tag.pointwise in target.tags
    single = len(target._schema.returns) == 1
    return known and single and torch.Tag.nondeterministic_seeded not in target.tags


def number_operand(operator: torch._ops.OpOverload, index: int | str) -> bool:
    """Whether a number that is given for an argument has to be made a tensor."""
    if operator in _NUMBERS_AS_TENSORS:
        return False
    schema = operator._schema.arguments
    (found,) = [schema[index]] if isinstance(index, int) else [item for item in schema if item.name == index]
    return str(found.type) == "Tensor"


def spell(steps: Sequence[Step]) -> str:
    """The text of a function, one for each sequence of steps.

    E.g. `v1 = mul.Tensor(x, 1.702); v2 = sigmoid.default(v1); v3 = mul.Tensor(x, v2)`; the last step is the result.
    """

    def operand(value: Operand) -> str:
        if isinstance(value, Value):
            return "x" if value.index == 0 else f"v{value.index}"
        return repr(value)

    lines = []
    for index, step in enumerate(steps, 1):
        operands = [*map(operand, step.args), *(f"{name}={operand(value)}" for name, value in step.kwargs)]
        lines.append(f"v{index} = {_name(step.operator)}({', '.join(operands)})")
    return "; ".join(lines)


@functools.lru_cache(maxsize=256)
def parse(expression: str) -> tuple[Step, ...]:
    """The steps of a text that `spell` wrote.

    Raises:
        PackQViTError: It is no such text, or names an operator that is none of ATen's pointwise ones.
    """
    try:
        statements = ast.parse(expression).body
    except SyntaxError as error:
        raise _refused(expression, f"it cannot be read: {error.msg}") from error
    steps: list[Step] = []
    for index, statement in enumerate(statements, 1):
        target = statement.targets if isinstance(statement, ast.Assign) else []
        call = statement.value if isinstance(statement, ast.Assign) else None
        named = len(target) == 1 and isinstance(target[0], ast.Name) and target[0].id == f"v{index}"
        if not named or not isinstance(call, ast.Call):
            raise _refused(expression, f"statement {index} is not v{index} = operator.overload(operands)")
        args = tuple(_operand(expression, argument, len(steps)) for argument in call.args)
        kwargs = tuple((str(word.arg), _operand(expression, word.value, len(steps))) for word in call.keywords)
        steps.append(Step(_operator(expression, call.func), args, kwargs))
    if not steps:
        raise _refused(expression, "it is empty")
    return tuple(steps)


def evaluate_steps(steps: Sequence[Step], x: torch.Tensor) -> torch.Tensor:
    """What a function gives.

    Args:
        steps: Of it.
        x: Float, any shape.

    Returns:
        Of x's type and shape.
    """
    values = [x]

    def operand(step: Step, index: int | str, value: Operand) -> Any:
        if isinstance(value, Value):
            return values[value.index]
        if isinstance(value, (int, float)) and number_operand(step.operator, index):
            return torch.scalar_tensor(value, dtype=x.dtype, device=x.device)
        return value

    for step in steps:
        args = [operand(step, index, value) for index, value in enumerate(step.args)]
        values.append(step.operator(*args, **{name: operand(step, name, value) for name, value in step.kwargs}))
    return values[-1].to(x.dtype)


def _name(operator: torch._ops.OpOverload) -> str:
    return f"{operator._opname}.{operator._overloadname}"


def _operator(expression: str, function: ast.expr) -> torch._ops.OpOverload:
    name = ast.unparse(function)
    packet, _, overload = name.partition(".")
    found: Any = getattr(getattr(aten, packet, None), overload, None) if overload.isidentifier() else None
    if not is_pointwise(found):
        raise _refused(expression, f"{name} is no pointwise operator of ATen")
    operator: torch._ops.OpOverload = found
    return operator


def _operand(expression: str, node: ast.expr, known: int) -> Operand:
    if isinstance(node, ast.Name):
        if node.id in _NAMED:
            return _NAMED[node.id]
        names = {"x": 0, **{f"v{index}": index for index in range(1, known + 1)}}
        if node.id not in names:
            raise _refused(expression, f"{node.id} is read before it is there")
        return Value(names[node.id])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _operand(expression, node.operand, known)
        if isinstance(number, (int, float)):
            return -number
    if isinstance(node, ast.Constant) and isinstance(node.value, LITERALS):
        return node.value
    raise _refused(expression, f"{ast.unparse(node)} is no value, number or word")


def _refused(expression: str, reason: str) -> PackQViTError:
    return PackQViTError(f"the function {expression!r} of packqvit.function is refused: {reason}")


LIBRARY.define("function(Tensor x, str expression) -> Tensor")


def function(x: torch.Tensor, expression: str) -> torch.Tensor:
    """A function of one variable, element by element.

    Args:
        x: Float, any shape.
        expression: Text of `spell`.

    Returns:
        Of x's type and shape.

    Raises:
        PackQViTError: As `parse`.
    """
    return evaluate_steps(parse(expression), x)


LIBRARY.impl("function", function, "CompositeImplicitAutograd")
