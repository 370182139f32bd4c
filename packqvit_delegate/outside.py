"""The operators of an edge program that are not in integers, and why."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from torch.fx import Node

from .passes.graph import is_part
from .passes.reasons import module_path, reason_of
from .serialization.names import operator_name

_DELEGATE_CALL = "executorch_call_delegate"

FEW = 4
"""Up to so many operators are listed one by one; more are grouped by their reason and module."""

_NUMBER = re.compile(r"(?<=[._])\d+(?=[._ ,;:)]|$)")
"""A number in a module's path or a node's name: blocks.3.mlp."""


@dataclasses.dataclass(frozen=True)
class OutsideOperator:
    """An operator that ExecuTorch's own kernels run, or another backend.

    Attributes:
        name: Of the node.
        operator: E.g. `aten::tanh`.
        reason: Why it is not in the delegate, and what would have to be different.
        module: Path of the module in the user's model, e.g. `blocks.3.mlp`; "" for the model itself.
    """

    name: str
    operator: str
    reason: str
    module: str = ""

    def render(self) -> str:
        """One line."""
        return f"{self.operator} in {self.module or 'the model itself'} ({self.name}): {self.reason}"


def outside_operators(nodes: Iterable[Node]) -> tuple[OutsideOperator, ...]:
    """The operators among the nodes of an edge program that belong to no delegate.

    Args:
        nodes: Of the graph, before or after the delegates are cut out.
    """
    return tuple(_described(node) for node in nodes if _is_outside(node))


def taken_operators(nodes: Iterable[Node]) -> tuple[OutsideOperator, ...]:
    """The operators that another backend computes in float.

    Args:
        nodes: Of the part of an edge program that one of its delegates was made of.
    """
    return tuple(_described(node) for node in nodes if _is_operator(node))


def _described(node: Node) -> OutsideOperator:
    return OutsideOperator(node.name, _name(node), reason_of(node) or _between(node), module_path(node))


def _is_operator(node: Node) -> bool:
    return node.op == "call_function" and not is_part(node) and _DELEGATE_CALL not in str(node.target)


def _is_outside(node: Node) -> bool:
    return _is_operator(node) and "delegation_tag" not in node.meta


def _name(node: Node) -> str:
    return operator_name(node) or str(node.target)


def _between(node: Node) -> str:
    """For what to_edge itself added: the operators that it stands between."""
    neighbours = [*node.all_input_nodes, *node.users]
    outside = [other for other in neighbours if _is_outside(other)]
    others = [f"{_name(other)} ({module_path(other) or other.name})" for other in outside]
    if not others:
        return f"{_name(node)} is none of the delegate's operators: passes.lower_to_integer makes these"
    reasons = [reason for other in outside if (reason := reason_of(other)) is not None]
    why = f": {reasons[0]}" if reasons else ""
    return f"it was made by to_edge for {' and '.join(dict.fromkeys(others))}, which stays outside{why}"


def _alike(text: str) -> str:
    """A text in which the numbers of layers are all the same."""
    return _NUMBER.sub("*", text)


@dataclasses.dataclass(frozen=True)
class Group:
    """Operators with one reason in modules that differ by the numbers of layers only.

    Attributes:
        reason: With `*` for the number of a layer.
        module: With `*` for the number of a layer.
        operators: All of them.
    """

    reason: str
    module: str
    operators: tuple[OutsideOperator, ...]

    @property
    def counts(self) -> str:
        """How many of which operators."""
        counts = Counter(operator.operator for operator in self.operators)
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    @property
    def places(self) -> str:
        """The modules, and how many they are."""
        modules = len({operator.module for operator in self.operators})
        return (self.module or "the model itself") + (f" ({modules} modules)" if modules > 1 else "")

    def render(self) -> str:
        """One line."""
        return f"{self.places}: {self.counts}: {self.reason}"


def grouped(operators: Sequence[OutsideOperator]) -> list[Group]:
    """Operators by reason and module, those of most operators first."""
    groups: dict[tuple[str, str], list[OutsideOperator]] = {}
    for operator in operators:
        groups.setdefault((_alike(operator.reason), _alike(operator.module)), []).append(operator)
    found = [Group(reason, module, tuple(members)) for (reason, module), members in groups.items()]
    return sorted(found, key=lambda group: -len(group.operators))


def describe_outside(operators: Sequence[OutsideOperator]) -> list[str]:
    """One line for each operator where they are few, one for each group of them where they are many."""
    return [item.render() for item in (operators if len(operators) <= FEW else grouped(operators))]


def log_lines(operators: Sequence[OutsideOperator]) -> list[str]:
    """What a log says: a line for each operator where they are few, one line for all where they are many."""
    if len(operators) <= FEW:
        return [f"outside the delegate: {operator.render()}" for operator in operators]
    groups = grouped(operators)
    common = "; ".join(group.render() for group in groups[:2])
    more = f"; and {len(groups) - 2} more reasons" if len(groups) > 2 else ""
    return [f"outside the delegate: {len(operators)} operators (all in program.report.render()): {common}{more}"]
