"""Operators that only move elements, and what a chain of them does to every element.

A chain is analysed by running it on a tensor of indices: whatever way a model spells the split of q, k and v or of its
heads, the index tensor says which element came from where.
"""

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import add_constant, arguments, aten, call, constant, is_call, is_constant, reshape, shape_of

RESHAPES = {
    aten.reshape.default,
    aten.reshape_as.default,
    aten.view.default,
    aten.view_as.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
}
PERMUTES = {
    aten.permute.default,
    aten.transpose.int,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.numpy_T.default,
    aten.mT.default,
    aten.t.default,
}
COPIES = {
    aten.clone.default,
    aten.contiguous.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
}
_ROTATIONS = {aten.roll.default, aten.flip.default}
LISTS = {
    aten.unbind.int,
    aten.chunk.default,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
}
"""What cuts a tensor into a list of parts."""
PARTS = {aten.select.int, aten.slice.Tensor, aten.narrow.default}
"""What takes one part."""
REPEATS = {aten.expand.default, aten.repeat_interleave.self_int}
"""What repeats elements: the heads of k and v that several query heads share."""
PADS = {aten.constant_pad_nd.default, aten.pad.default}
"""What puts something around a tensor."""

NOTHING = -1
"""Stands in an index map for an element that comes from nowhere: a zero that a pad puts in."""


def is_bijective(node: Node) -> bool:
    """Whether a node moves elements and loses none."""
    if is_call(node, aten.index_select.default):
        index = constant_index(node)
        size = shape_of(node.args[0])[node.args[1]]  # type: ignore[arg-type, index]
        return index is not None and torch.equal(index.sort().values, torch.arange(size))
    return is_call(node, *RESHAPES, *PERMUTES, *COPIES, *_ROTATIONS)


def is_layout(node: Node) -> bool:
    """Whether a node moves elements, and may leave some out."""
    if is_call(node, operator.getitem):
        return is_call(node.args[0], *LISTS)
    if is_call(node, aten.index_select.default):
        return constant_index(node) is not None
    return is_bijective(node) or is_call(node, *LISTS, *PARTS) or _pads_zeros(node)


def moves_or_repeats(node: Node) -> bool:
    """Whether a node moves elements, may leave some out, and may be there several times."""
    return is_layout(node) or is_call(node, *REPEATS)


def _pads_zeros(node: Node) -> bool:
    if not is_call(node, *PADS):
        return False
    given = arguments(node)
    return given.get("mode", "constant") == "constant" and not given["value"]


def constant_index(select: Node) -> Tensor | None:
    """The indices of an index_select, int64 [M]; None where they are computed."""
    module, index = select.graph.owning_module, select.args[2]
    return constant(module, index) if module is not None and is_constant(index) else None  # type: ignore[arg-type]


def trace(node: Node, accept: Callable[[Node], bool] = is_layout) -> tuple[Node, list[Node]]:
    """Walks back over nodes that `accept` takes.

    Returns:
        The node the walk ended at, and the nodes passed, in the order in which they run.
    """
    chain: list[Node] = []
    while accept(node):
        chain.append(node)
        node = node.args[0]  # type: ignore[assignment]
    return node, chain[::-1]


def apply(node: Node, value: Tensor) -> Tensor:
    """Runs one layout node on another tensor (a list of tensors for a node that splits); integers are index maps."""
    move = _move(node)
    if move is None:
        return value.index_select(node.args[1], constant_index(node))  # type: ignore[arg-type]
    return _moved(value, move)


_Move = tuple[Callable[..., Tensor], tuple[Any, ...], tuple[tuple[str, Any], ...]]


def _move(node: Node) -> _Move | None:
    """What a layout node does, as something that equals what others do; None of an index_select by a constant."""
    if node.target in RESHAPES:
        return Tensor.reshape, (shape_of(node),), ()
    if node.target is aten.index_select.default:
        return None
    return node.target, _frozen(node.args[1:]), _frozen(tuple(node.kwargs.items()))  # type: ignore[return-value]


def _frozen(argument: Any) -> Any:
    return tuple(map(_frozen, argument)) if isinstance(argument, list | tuple) else argument


def _moved(value: Tensor, move: _Move) -> Tensor:
    target, args, kwargs = move
    if target in PADS:
        filling = 0.0 if value.is_floating_point() else NOTHING
        return torch.nn.functional.pad(value, args[0], value=filling)
    return target(value, *args, **dict(kwargs))


def permutation(node: Node) -> list[int]:
    """The order of a permute's dimensions, read off a tensor whose sizes are all different."""
    rank = len(shape_of(node))
    probe = torch.empty(tuple(range(1, rank + 1)), device="meta")
    return [size - 1 for size in node.target(probe, *node.args[1:], **node.kwargs).shape]  # type: ignore[operator]


def index_map(base: Node, chain: list[Node]) -> Tensor:
    """For every element after `chain`, the flat index of the element of `base` that it came from, or NOTHING."""
    shape = shape_of(base)
    value = torch.arange(torch.Size(shape).numel()).reshape(shape)
    for node in chain:
        if moves_or_repeats(node):
            value = apply(node, value)
    return value


def head_features(index: Tensor, batch: int, tokens: int, features: int) -> Tensor | None:
    """Which feature of a [batch, tokens, features] tensor each head and channel of a layout holds.

    Args:
        index: The map [..., tokens, d] into that tensor.
        batch: B.
        tokens: N.
        features: O.

    Returns:
        [H, d], or None unless the leading dimensions are batch-major heads and every token stayed where it was.
    """
    if index.dim() < 2 or index.shape[-2] != tokens or index.numel() % (batch * tokens * index.shape[-1]):
        return None
    grid = index.reshape(batch, -1, tokens, index.shape[-1])
    found = grid[0, :, 0] % features
    position = torch.arange(batch * tokens).reshape(batch, 1, tokens, 1)
    return found if torch.equal(grid, position * features + found[:, None]) else None


def row_positions(index: Tensor, channels: int) -> Tensor | None:
    """The row each row of `index` [..., channels] came from, or None unless the rows stayed whole.

    A row of zeros that a pad put in comes from NOTHING.
    """
    if not index.dim() or index.shape[-1] != channels:
        return None
    rows = torch.where(index[..., 0] == NOTHING, NOTHING, index[..., 0] // channels)
    expected = torch.where(rows[..., None] == NOTHING, NOTHING, rows[..., None] * channels + torch.arange(channels))
    return rows if torch.equal(index, expected) else None


def whole_rows(base: Node, chain: list[Node]) -> Tensor | None:
    """`joined_rows` of the last node of a chain of moves; not to be written to: chains that move alike share it."""
    moves = tuple(_move(node) for node in chain if is_layout(node))
    if None not in moves:
        return _whole_rows(shape_of(base), moves)
    return _rows_of(index_map(base, chain), shape_of(base)[-1])


@functools.lru_cache(maxsize=256)  # each layer asks many times, and the layers of a model move alike
def _whole_rows(shape: tuple[int, ...], moves: tuple[_Move, ...]) -> Tensor | None:
    index = functools.reduce(_moved, moves, torch.arange(math.prod(shape)).reshape(shape))
    return _rows_of(index, shape[-1])


def _rows_of(index: Tensor, channels: int) -> Tensor | None:
    """`row_positions` of an index [..., k * channels], k in a row: [..., k]."""
    return row_positions(index.reshape(*index.shape[:-1], -1, channels), channels)


def joined_rows(base: Node, node: Node) -> Tensor | None:
    """The rows of `base` [..., C] that each row of `node` [..., k * C] is made of, where only moves are between them.

    Merging of patches puts the rows of k tokens side by side; all other moves of whole tokens have k = 1.

    Returns:
        int64 [..., k], rows counted through all of `base`, NOTHING for rows of zeros; None unless the rows stayed
        whole.
    """
    channels, width = shape_of(base)[-1:], shape_of(node)[-1:]
    if not channels or not width or width[0] % channels[0]:
        return None
    found, chain = trace(node, lambda passed: passed is not base and is_layout(passed))
    if found is not base:
        return None
    return whole_rows(base, chain)


def moved_rows(base: Node, node: Node) -> Tensor | None:
    """The row of `base` [..., C] that each row of `node` [..., C] is, where only moves are between them.

    Returns:
        int64 [...], rows counted through all of `base`, NOTHING for rows of zeros; None unless the rows stayed whole.
    """
    rows = joined_rows(base, node)
    return None if rows is None or rows.shape[-1] != 1 else rows[..., 0]


def repeated_index(positions: Tensor, rows: int, groups: int) -> list[int] | None:
    """The indices by which each of some groups of rows is picked out of its own group, alike for all of them.

    Args:
        positions: int64 [M], out of `rows` rows.
        rows: Their number.
        groups: How many groups.

    Returns:
        Of the rows / groups rows of a group, NOTHING for rows of zeros; None where rows leave their group, or groups
        differ.
    """
    if rows % groups or len(positions) % groups or not len(positions):
        return None
    size = rows // groups
    by_group = positions.reshape(groups, -1)
    empty = by_group == NOTHING
    index = torch.where(empty, NOTHING, by_group - torch.arange(groups).unsqueeze(1) * size)
    inside = empty | ((index >= 0) & (index < size))
    alike = bool((index == index[0]).all()) and bool(inside.all()) and torch.equal(empty, empty[:1].expand_as(empty))
    return index[0].tolist() if alike else None


def is_transposition(shape: tuple[int, ...], positions: Tensor) -> bool:
    """Whether rows [B, N, C] are only transposed, flattened, or spread over more axes of the same image.

    So models spell token-first tensors, rows [B * N, C] and maps [B, h, w, C]. Windows that become images of their own
    are something else.

    Args:
        shape: [B, N, C].
        positions: int64 [...], the row that each row of the result is.
    """
    batch, tokens, _ = shape
    order = torch.arange(batch * tokens)
    if torch.equal(positions.flatten(), order):
        leading = tuple(positions.shape)
        return leading[:1] == (batch,) or leading in ((batch * tokens,), (tokens, batch))
    return torch.equal(positions.flatten(), order.reshape(batch, tokens).T.flatten())


def row_groups(order: Tensor, leading: Sequence[int]) -> tuple[int, list[int]]:
    """How many groups of rows are each rearranged alike, and how: an index that is as short as it may be.

    Args:
        order: int64 [M], the row that each row of the result is.
        leading: Of the rows' tensor, all sizes but the last; where there are two, they are the groups if that is right.

    Returns:
        The number of groups, and the rows of a group, counted within it.
    """
    rows = math.prod(leading)
    common = math.gcd(rows, len(order))
    divisors = [groups for groups in range(common, 0, -1) if common % groups == 0]
    for groups in [leading[0], *divisors] if len(leading) == 2 else divisors:
        index = repeated_index(order, rows, groups)
        if index is not None:
            return groups, index
    raise AssertionError("one group holds all rows")


def gather_rows(graph_module: GraphModule, node: Node, positions: Tensor) -> Node:
    """Inserts what brings the rows of `node` [..., C] to `positions` [...]: reshape -> index_select -> reshape at most.

    Returns:
        The node of shape [*positions.shape, C].
    """
    *leading, channels = shape_of(node)
    order = positions.flatten()
    if not torch.equal(order, torch.arange(math.prod(leading))):
        groups, index = row_groups(order, leading)
        node = reshape(graph_module, node, [groups, math.prod(leading) // groups, channels])
        token_order = add_constant(graph_module, torch.tensor(index), "token_order")
        node = call(graph_module, aten.index_select.default, node, 1, token_order)
    return reshape(graph_module, node, [*positions.shape, channels])


def place_rows(graph_module: GraphModule, node: Node, positions: Tensor) -> Node | None:
    """Inserts what brings the rows of `node` [B, N, C] to `positions` [...]: a transpose and a reshape at most.

    Returns:
        The node of shape [..., C], or None when a transpose and a reshape cannot express it.
    """
    batch, tokens, channels = shape_of(node)
    order = torch.arange(batch * tokens)
    if not torch.equal(positions.flatten(), order):
        if not torch.equal(positions.flatten(), order.reshape(batch, tokens).T.flatten()):
            return None
        node = call(graph_module, aten.transpose.int, node, 0, 1)
    return reshape(graph_module, node, [*positions.shape, channels])
