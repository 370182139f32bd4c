"""What each element of a value is made of, where moves, constant factors and sums are all that is in front of it.

So rotary positions are found, however a model spells them: halves or neighbours, stacked, sliced or joined, for all
tokens or for a part of them. The operators are run on indices and factors, as `layout.py` runs moves on indices.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import arguments, aten, constant, has_tensor, is_call, is_constant, shape_of
from .layout import NOTHING, apply, is_layout

_SUMS = {aten.add.Tensor: 1.0, aten.sub.Tensor: -1.0}
_JOINS = {aten.cat.default: torch.cat, aten.stack.default: torch.stack}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar}
_MOST = 8
"""Terms of one element that are followed: what has more is no rotation."""


@dataclass(frozen=True)
class Term:
    """One product for each element of a value.

    Attributes:
        index: int64, of the value's shape: the element of the source, counted through all of it, or NOTHING.
        factor: float64, what that is multiplied with.
    """

    index: Tensor
    factor: Tensor


@dataclass(frozen=True)
class LinearTerms:
    """A value as sums of products with the elements of one other value.

    Attributes:
        source: Where the elements come from.
        terms: Each element is the sum of these.
    """

    source: Node
    terms: list[Term]


def linear_terms(graph_module: GraphModule, value: Node) -> LinearTerms | None:
    """The terms of a value, from the nearest value that all of them come from.

    None where there are several such values, or where nothing is added up.
    """
    region: set[Node] = set()
    sources: set[Node] = set()
    pending = [value]
    while pending:
        node = pending.pop()
        if node in region or node in sources:
            continue
        if (operands := _operands(graph_module, node)) is None:
            sources.add(node)
        else:
            region.add(node)
            pending.extend(operands)
        if len(sources) > 1:
            return None
    if len(sources) != 1 or not any(is_call(node, *_SUMS) for node in region):
        return None
    (source,) = sources
    if not has_tensor(source):
        return None
    shape = shape_of(source)
    index = torch.arange(torch.Size(shape).numel()).reshape(shape)
    found: dict[Node, Any] = {source: [Term(index, torch.ones(shape, dtype=torch.float64))]}
    for node in graph_module.graph.nodes:
        if node in region:
            found[node] = _run(graph_module, node, found)
            if isinstance(found[node][0], Term) and len(found[node]) > _MOST:
                return None
    return LinearTerms(source, found[value])


def _operands(graph_module: GraphModule, node: Node) -> list[Node] | None:
    """What a node of the region is computed from, constants left out; None of any other node."""
    if is_layout(node):
        return [node.args[0]]  # type: ignore[list-item]
    if is_call(node, *_JOINS):
        parts = list(node.args[0])  # type: ignore[arg-type]
        return None if any(map(is_constant, parts)) else parts
    if is_call(node, aten.neg.default):
        return [node.args[0]]  # type: ignore[list-item]
    if is_call(node, *_SUMS):
        alone = arguments(node)["alpha"] == 1 and all(isinstance(a, Node) and not is_constant(a) for a in node.args[:2])
        same = alone and all(shape_of(a) == shape_of(node) for a in node.args[:2])  # type: ignore[arg-type]
        return list(node.args[:2]) if same else None  # type: ignore[arg-type]
    factor = _factor(graph_module, node)
    return None if factor is None else [factor[0]]


def _factor(graph_module: GraphModule, node: Node) -> tuple[Node, Tensor] | None:
    """`(x, factor)` of x times or over a constant that does not make it larger."""
    if not is_call(node, *_PRODUCTS):
        return None
    x, factor = node.args[:2]
    divides = is_call(node, aten.div.Tensor, aten.div.Scalar)
    if is_constant(x) and not divides:
        x, factor = factor, x
    if not isinstance(x, Node) or is_constant(x) or shape_of(x) != shape_of(node):
        return None
    if isinstance(factor, int | float):
        number = torch.tensor(float(factor), dtype=torch.float64)
    elif is_constant(factor):
        number = constant(graph_module, factor).double()  # type: ignore[arg-type]
    else:
        return None
    return x, 1 / number if divides else number


def _run(graph_module: GraphModule, node: Node, found: dict[Node, Any]) -> Any:
    """The terms of a node; of one that cuts a value into parts, a list of terms for each part."""
    if is_call(node, operator.getitem):
        return found[node.args[0]][node.args[1]]  # type: ignore[index]
    if is_layout(node):
        moved = [(apply(node, term.index), apply(node, term.factor)) for term in found[node.args[0]]]  # type: ignore[index]
        if isinstance(moved[0][0], Tensor):
            return [Term(*both) for both in moved]
        return [[Term(index[i], factor[i]) for index, factor in moved] for i in range(len(moved[0][0]))]
    if is_call(node, *_JOINS):
        return _joined(node, [found[part] for part in node.args[0]])  # type: ignore
    if is_call(node, aten.neg.default):
        return [Term(term.index, -term.factor) for term in found[node.args[0]]]  # type: ignore[index]
    if is_call(node, *_SUMS):
        sign = _SUMS[node.target]  # type: ignore[index]
        first, second = (found[operand] for operand in node.args[:2])  # type: ignore[index]
        return [*first, *(Term(term.index, sign * term.factor) for term in second)]
    x, factor = _factor(graph_module, node)  # type: ignore[misc]
    return [Term(term.index, term.factor * factor) for term in found[x]]


def _joined(node: Node, parts: list[list[Term]]) -> list[Term]:
    """The terms of parts that are put side by side; where one has fewer than another, nothing is added."""
    join = _JOINS[node.target]  # type: ignore[index]
    axis = node.args[1] if len(node.args) > 1 else 0
    terms = []
    for i in range(max(map(len, parts))):
        padded = [part[i] if i < len(part) else _nothing(part[0]) for part in parts]
        index, factor = [term.index for term in padded], [term.factor for term in padded]
        terms.append(Term(join(index, axis), join(factor, axis)))  # type: ignore[arg-type]
    return terms


def _nothing(like: Term) -> Term:
    return Term(torch.full_like(like.index, NOTHING), torch.zeros_like(like.factor))
