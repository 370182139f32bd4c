"""Makes one operator of what computes a function of one variable, however it is spelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from packqvit_delegate.ops.function import (
    LITERALS,
    Step,
    Value,
    evaluate_steps,
    is_pointwise,
    number_operand,
    parse,
    spell,
)

from .graph import (
    add_constant,
    aten,
    call,
    clean_up,
    dtype_of,
    find,
    has_tensor,
    is_call,
    replacing,
    scalar_value,
    shape_of,
)
from .patterns import UNARY_FUNCTIONS
from .reasons import origin

ops = torch.ops.packqvit

_CANDIDATES: list[tuple[Callable[..., object], dict[str, str], Callable[[Tensor], Tensor]]] = [
    (aten.gelu.default, {}, functional.gelu),
    (aten.gelu.default, {"approximate": "tanh"}, lambda x: functional.gelu(x, approximate="tanh")),
    (aten.silu.default, {}, functional.silu),
]
# GELU and its tanh form differ by 5e-4; constants written with seven digits by less than 1e-6.
_TOLERANCE = 1e-5
_STRAIGHT = 1e-9


def normalize_unary(graph_module: GraphModule) -> GraphModule:
    """Replaces a spelled-out GELU (erf or tanh form) or SiLU by the operator, any other function of a linear by one.

    Operators of one number or one value only, as QuickGELU or a squared ReLU has. Straight lines stay: they belong into
    weights. So does what is not finite between -10 and 10.

    before: x -> div sqrt(2) -> erf -> add 1 -> mul x -> mul 0.5
    after:  x -> gelu

    before: linear -> mul 1.702 -> sigmoid -> mul linear
    after:  linear -> packqvit.function(v1 = mul.Tensor(x, 1.702); v2 = sigmoid.default(v1); v3 = mul.Tensor(x, v2))
    """
    grid = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    for node in reversed(list(graph_module.graph.nodes)):
        region = _region(graph_module, node)
        if region is None or not node.users:
            continue
        source, nodes = region
        steps = _steps(graph_module, source, nodes)
        result = evaluate_steps(steps, grid)
        named = _named(result, grid) if len(nodes) > 1 else None
        if named is None and (is_call(node, *UNARY_FUNCTIONS) or not _is_function_of_linear(source, nodes, result)):
            continue
        target, kwargs = named or (ops.function.default, {"expression": spell(steps)})
        with replacing(graph_module, node):
            arguments = (source,) if named else (source, kwargs.pop("expression"))
            node.replace_all_uses_with(call(graph_module, target, *arguments, **kwargs))
    return clean_up(graph_module)


def spell_out(graph_module: GraphModule) -> GraphModule:
    """Puts the operators of a `packqvit.function` in its place again, with its reason (passes/reasons.py)."""
    for node in find(graph_module, ops.function.default):
        values: list[Any] = [node.args[0]]
        with replacing(graph_module, node):
            for step in parse(str(node.args[1])):
                args = [_operand(graph_module, step, *item, values) for item in enumerate(step.args)]
                kwargs = {name: _operand(graph_module, step, name, value, values) for name, value in step.kwargs}
                values.append(call(graph_module, step.operator, *args, **kwargs))
                values[-1].meta["custom"] = dict(node.meta.get("custom", {}))
        node.replace_all_uses_with(values[-1])
        graph_module.graph.erase_node(node)
    return graph_module


def clamped(graph_module: GraphModule, function: Node, bound: float) -> str:
    """The text of a function of one variable, one of UNARY_FUNCTIONS, for an input that stops at `bound`."""
    (source,) = function.all_input_nodes
    steps = _steps(graph_module, source, [function])
    return spell([Step(aten.clamp_max.default, (Value(0), bound)), *_shifted(tuple(steps), Value(1), 1)])


def one_variable(graph_module: GraphModule, sink: Node) -> Node | None:
    """The one value that a node is a function of, element by element, such as x in x * sigmoid(1.702 * x), or None."""
    region = _region(graph_module, sink)
    return None if region is None else region[0]


def _operand(graph_module: GraphModule, step: Step, index: int | str, value: Any, values: list[Any]) -> Any:
    if isinstance(value, Value):
        return values[value.index]
    if isinstance(value, (int, float)) and number_operand(step.operator, index):
        return add_constant(graph_module, torch.tensor(value, dtype=dtype_of(values[0])), "number")
    return value


def _named(result: Tensor, grid: Tensor) -> tuple[Any, dict[str, str]] | None:
    for target, kwargs, function in _CANDIDATES:
        if torch.allclose(result, function(grid), rtol=0, atol=_TOLERANCE):
            return target, dict(kwargs)
    return None


def _is_function_of_linear(source: Node, nodes: list[Node], result: Tensor) -> bool:
    """Whether a linear's output is all that a function needs, and nothing else reads that or what is in between."""
    inside = {*nodes}
    alone = all(user in inside for node in (source, *nodes[:-1]) for user in node.users)
    if not alone or not is_call(origin(source), aten.linear.default) or not bool(torch.isfinite(result).all()):
        return False
    bend = result.diff().diff().abs().max()
    return bool(bend > _STRAIGHT * result.abs().max())


def _region(graph_module: GraphModule, sink: Node) -> tuple[Node, list[Node]] | None:
    """The one tensor that `sink` is a pointwise function of, and the nodes between them in graph order."""
    if not has_tensor(sink) or not dtype_of(sink).is_floating_point or not _is_step(sink):
        return None
    region, sources, pending = set(), set(), [sink]
    while pending:
        node = pending.pop()
        if node in region or scalar_value(graph_module, node) is not None:
            continue
        if _is_step(node) and shape_of(node) == shape_of(sink):
            region.add(node)
            pending.extend(node.all_input_nodes)
        else:
            sources.add(node)
        if len(sources) > 1:
            return None
    if len(sources) != 1:
        return None
    source = sources.pop()
    same = has_tensor(source) and shape_of(source) == shape_of(sink) and dtype_of(source) == dtype_of(sink)
    return (source, [node for node in graph_module.graph.nodes if node in region]) if same else None


def _is_step(node: Node) -> bool:
    """Whether a node is one step of a function, or more: all its operands are values, numbers or words."""
    if is_call(node, ops.function.default):
        return True
    operands = (*node.args, *node.kwargs.values())
    return is_pointwise(node.target) and all(isinstance(value, (Node, *LITERALS)) for value in operands)


def _steps(graph_module: GraphModule, source: Node, nodes: list[Node]) -> list[Step]:
    """The nodes between a source and their last one as the steps of a function."""
    steps: list[Step] = []
    known = {source: Value(0)}

    def operand(value: Any) -> Any:
        if not isinstance(value, Node):
            return value
        return known[value] if value in known else scalar_value(graph_module, value)

    for node in nodes:
        if is_call(node, ops.function.default):
            steps.extend(_shifted(parse(str(node.args[1])), known[node.args[0]], len(steps)))  # type: ignore[index]
        else:
            kwargs = tuple((name, operand(value)) for name, value in node.kwargs.items())
            steps.append(Step(node.target, tuple(map(operand, node.args)), kwargs))  # type: ignore[arg-type]
        known[node] = Value(len(steps))
    return steps


def _shifted(steps: tuple[Step, ...], x: Value, before: int) -> list[Step]:
    """The steps of a function behind those of another one, with its variable `x`."""

    def operand(value: Any) -> Any:
        if not isinstance(value, Value):
            return value
        return x if value.index == 0 else Value(value.index + before)

    return [
        Step(
            step.operator, tuple(map(operand, step.args)), tuple((name, operand(value)) for name, value in step.kwargs)
        )
        for step in steps
    ]
