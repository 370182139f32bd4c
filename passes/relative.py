"""Finds relative positions in what a model adds to the scores of an attention, however it computes them.

They are a linear function of the queries. What computes them is run on queries that have one channel each, which gives
the function's numbers, and then on random ones, which says whether that is all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from packqvit_delegate.ops.relative import relative_bias

from .graph import arguments, aten, constant, is_call, is_constant, is_trainable, shape_of
from .layout import is_layout
from .reasons import NotLowered, describe

_MOVES = {aten.expand.default, aten.expand_as.default, aten.gather.default, aten.index.Tensor, aten.clone.default}
"""What moves or repeats elements, beside layouts; by indices that are constant."""
_SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.cat.default, aten.neg.default, aten.sum.dim_IntList}
_PRODUCTS = {
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.matmul.default,
    aten.bmm.default,
    aten.linear.default,
    aten.einsum.default,
}
"""Linear where all operands but one are constant."""
_CLOSE = 1e-4
"""Of the largest: sums of float32 products in another order differ by less."""


@dataclass(frozen=True)
class Addend:
    """A value that the model computes and adds to the scores of an attention.

    Attributes:
        node: The value, broadcastable to `shape`.
        scale: What the sum is multiplied with afterwards, broadcastable to `shape`.
        shape: Of the sum; the scores' elements in their order.
    """

    node: Node
    scale: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Queries:
    """Where the queries of an attention come from.

    Attributes:
        source: The node whose elements they are.
        index: Which of them, counted through all, int64 [B, H, N, d].
        factor: What each is multiplied with, float64 [B, H, N, d].
    """

    source: Node
    index: Tensor
    factor: Tensor


@dataclass(frozen=True)
class Relative:
    """Relative positions as `packqvit.relative_bias` takes them.

    Attributes:
        numbers: float32 [H or 1, O, d].
        rows: Of the map that the tokens stand on.
        columns: Of the map.
        trainable: Whether they were made of parameters.
    """

    numbers: Tensor
    rows: int
    columns: int
    trainable: bool


def find_relative(graph_module: GraphModule, queries: Queries, addends: list[Addend]) -> Relative:
    """The relative positions that the sum of some addends is.

    What is the same for all keys of a query is left out: no softmax sees it.

    Args:
        graph_module: Holds the constants.
        queries: Of the attention.
        addends: At least one.

    Raises:
        NotLowered: The addends are something else.
    """
    region = _region(graph_module, queries.source, addends)
    function = _Function(graph_module, queries, addends, region)
    grid = _grid(function)
    if grid is None:
        raise _other(addends, "it would have to depend on by how many rows and columns of a map a key is away")
    by_row, by_column = _numbers(function, *grid)
    numbers = torch.cat([by_row, by_column], 1)
    if not _is_all(function, numbers, *grid):
        raise _other(addends, "each query would have to add products with its own channels, alike in all images")
    numbers = torch.cat([_centred(by_row), _centred(by_column)], 1)
    if torch.allclose(numbers, numbers[:1].expand_as(numbers), atol=_CLOSE * float(numbers.abs().max())):
        numbers = numbers[:1]
    return Relative(numbers, *grid, is_trainable(graph_module, *(n for node in region for n in node.all_input_nodes)))


def _other(addends: list[Addend], wanted: str) -> NotLowered:
    return NotLowered(
        f"what {describe(addends[0].node)} adds to the scores of the attention is computed from its queries, but is no "
        f"relative position: {wanted}"
    )


def _region(graph_module: GraphModule, source: Node, addends: list[Addend]) -> list[Node]:
    """The nodes between a source and what is computed from it, in the order of the graph.

    Raises:
        NotLowered: They come from elsewhere too, or are no linear function.
    """
    found: set[Node] = set()
    pending = [addend.node for addend in addends]
    while pending:
        node = pending.pop()
        if node is source or node in found:
            continue
        operands = _operands(node)
        if operands is None:
            raise NotLowered(
                f"the attention's mask comes from {describe(node)} at run time: it would have to be constant, or a "
                "linear function of its own queries (relative positions)"
            )
        found.add(node)
        pending.extend(operands)
    return [node for node in graph_module.graph.nodes if node in found]


def _operands(node: Node) -> list[Node] | None:
    """What a node is a linear function of; None where it may be of another kind."""
    operands: list[Node] = []
    map_arg((node.args, node.kwargs), operands.append)
    computed = [operand for operand in operands if not is_constant(operand)]
    if is_layout(node) or is_call(node, *_MOVES):
        alone = len(computed) == 1 or is_call(node, aten.expand_as.default)
        return computed[:1] if alone and computed[0] is node.args[0] else None
    if is_call(node, *_SUMS):
        return computed if computed == operands and not _has_number(node) else None
    if is_call(node, *_PRODUCTS) and len(computed) == 1:
        divides = is_call(node, aten.div.Tensor, aten.div.Scalar) and node.args[0] is not computed[0]
        shifts = is_call(node, aten.linear.default) and arguments(node)["bias"] is not None
        return None if divides or shifts else computed
    return None


def _has_number(node: Node) -> bool:
    """Whether a number is added."""
    return is_call(node, aten.add.Tensor, aten.sub.Tensor) and not all(isinstance(a, Node) for a in node.args[:2])


@dataclass(frozen=True)
class _Function:
    """What is added to the scores, as a function of the queries."""

    graph_module: GraphModule
    queries: Queries
    addends: list[Addend]
    region: list[Node]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """B, H, N and d."""
        return tuple(self.queries.index.shape)  # type: ignore[return-value]

    def of_queries(self, q: Tensor) -> Tensor:
        """float32 [B, H, N, N] of queries [B, H, N, d]."""
        source = torch.zeros(shape_of(self.queries.source))
        factor = self.queries.factor.float()
        source.view(-1)[self.queries.index.flatten()] = torch.where(factor == 0, 0.0, q / factor).flatten()
        return self.of_source(source)

    def of_source(self, source: Tensor) -> Tensor:
        """float32 [B, H, N, N] of the value of the node that the queries come from."""
        values: dict[Node, Any] = {self.queries.source: source}

        def operand(node: Node) -> Any:
            return values[node] if node in values else constant(self.graph_module, node)

        for node in self.region:
            if is_call(node, aten.expand_as.default):
                values[node] = values[node.args[0]].expand(shape_of(node))  # type: ignore[index]
                continue
            args, kwargs = map_arg((node.args, node.kwargs), operand)
            values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        batch, heads, tokens, _ = self.shape
        total = torch.zeros(batch, heads, tokens, tokens)
        for addend in self.addends:
            value = values[addend.node] * addend.scale.float()
            total += value.expand(addend.shape).reshape(total.shape)
        return total


def _grid(function: _Function) -> tuple[int, int] | None:
    """Rows and columns of the map for which queries that are all alike add by distance alone; the squarest one."""
    _, _, tokens, channels = function.shape
    q = torch.randn(channels, generator=torch.Generator().manual_seed(0))
    heads = function.of_queries(q.expand(function.shape))[0]
    added = heads[int(heads.abs().amax((1, 2)).argmax())]  # one that adds anything, where there is one
    divisors = [rows for rows in range(1, tokens + 1) if tokens % rows == 0]
    for rows in sorted(divisors, key=lambda rows: rows + tokens // rows):
        columns = tokens // rows
        by_row, by_column = _distances(added.reshape(1, rows, columns, rows, columns))
        sums = _expected(torch.cat([by_row, by_column], 1), rows, columns)
        if _are_close(added, sums):
            return rows, columns
    return None


def _expected(numbers: Tensor, rows: int, columns: int) -> Tensor:
    """What queries of one channel, which is 1, add: [N, N] of numbers [1, O]."""
    return relative_bias(torch.ones(1, 1, rows * columns, 1), numbers.unsqueeze(-1), rows, columns)[0, 0]


def _distances(added: Tensor) -> tuple[Tensor, Tensor]:
    """What is added for each distance of rows and columns, [H, 2 * rows - 1] and [H, 2 * columns - 1].

    Args:
        added: [H, rows, columns, rows, columns], of queries that are all alike.
    """
    by_row = torch.cat([added[:, -1, 0, :, 0], added[:, 0, 0, 1:, 0]], 1)
    by_column = torch.cat([added[:, 0, -1, 0, :], added[:, 0, 0, 0, 1:]], 1)
    return by_row - added[:, 0, 0, :1, 0], by_column


def _numbers(function: _Function, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """What each channel of a query adds for each distance: [H, 2 * rows - 1, d] and [H, 2 * columns - 1, d].

    Of the tokens of a row, each asks for another channel, so that a few evaluations serve all; then of a column.
    """
    _, heads, _, channels = function.shape
    by_row = torch.empty(heads, 2 * rows - 1, channels)
    by_column = torch.empty(heads, 2 * columns - 1, channels)
    for first in range(0, channels, columns):
        asked = torch.eye(channels)[first : first + columns]
        added = _asked(function, asked.repeat(rows, 1, 1), rows, columns).diagonal(dim1=2, dim2=4)
        found = torch.cat([added[:, -1], added[:, 0, 1:]], 1)
        by_row[:, :, first : first + columns] = found[..., : len(asked)]
    for first in range(0, channels, rows):
        asked = torch.eye(channels)[first : first + rows]
        added = _asked(function, asked.repeat(columns, 1, 1).transpose(0, 1), rows, columns).diagonal(dim1=1, dim2=3)
        found = torch.cat([added[:, -1], added[:, 0, 1:]], 1)
        by_column[:, :, first : first + rows] = found[..., : len(asked)]
    return by_row - by_row[:, rows - 1 : rows], by_column


def _asked(function: _Function, channels: Tensor, rows: int, columns: int) -> Tensor:
    """What is added, [H, rows, columns, rows, columns], of queries [up to rows, up to columns, d]; others are 0."""
    batch, heads, tokens, size = function.shape
    q = torch.zeros(rows, columns, size)
    q[: channels.shape[0], : channels.shape[1]] = channels
    added = function.of_queries(q.reshape(tokens, size).expand(batch, heads, tokens, size))
    return added[0].reshape(heads, rows, columns, rows, columns)


def _is_all(function: _Function, numbers: Tensor, rows: int, columns: int) -> bool:
    """Whether what is added to the scores of random queries, and nothing else, are these products."""
    queries = function.queries
    source = torch.randn(shape_of(queries.source), generator=torch.Generator().manual_seed(1))
    q = source.flatten()[queries.index] * queries.factor.float()
    added = function.of_source(source)
    return all(
        _are_close(added[:, head], relative_bias(q[:, head : head + 1], numbers[head : head + 1], rows, columns)[:, 0])
        for head in range(len(numbers))
    )


def _are_close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= _CLOSE * float(found.abs().max())


def _centred(numbers: Tensor) -> Tensor:
    """Numbers [H, distances, d] with 0 in the middle of each channel's range."""
    return numbers - (numbers.amax(1, keepdim=True) + numbers.amin(1, keepdim=True)) / 2
