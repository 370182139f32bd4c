"""Moves transposes and reshapes of the batch and token dimensions behind the operators that work on rows."""

import math

from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import aten, call, clean_up, find, has_tensor, is_call, is_constant, replacing, reshape, shape_of
from .layout import is_bijective, is_transposition, place_rows, trace, whole_rows
from .patterns import UNARY_FUNCTIONS

_ROWWISE = (
    aten.linear.default,
    aten.layer_norm.default,
    *UNARY_FUNCTIONS,
    aten.add.Tensor,
    aten.mul.Tensor,
)


def sink_layouts(graph_module: GraphModule) -> GraphModule:
    """Runs row-wise operators on [B, N, C], before a move of whole rows instead of after it.

    Models that compute token-first or on [B * N, C] (torch.nn.MultiheadAttention does) become batch-first, because the
    moves meet their inverses.

    before: x [B, N, C] -> transpose [N, B, C] -> linear
    after:  x [B, N, C] -> linear -> transpose [N, B, O]

    A map [B, h, w, C] to which rows [B, h * w, C] are added becomes such rows.

    before: add(x [B, h, w, C], reshape(y [B, h * w, C]))
    after:  reshape(add(reshape(x), y))
    """
    for node in find(graph_module, aten.add.Tensor):
        _flatten_maps(graph_module, node)
    for node in find(graph_module, *_ROWWISE):
        moved = [_moved_rows(argument, shape_of(node)[:-1]) for argument in _tensor_arguments(node)]
        if not moved or any(found is None for found in moved) or not _acts_on_last(node):
            continue
        sources = [found[0] for found in moved if found is not None]
        positions = [found[1] for found in moved if found is not None]
        if any(not position.equal(positions[0]) for position in positions[1:]):
            continue
        with replacing(graph_module, node):
            args = (*sources, *node.args[len(sources) :])
            computed = call(graph_module, node.target, *args, **node.kwargs)  # type: ignore[arg-type]
            placed = place_rows(graph_module, computed, positions[0])
        if placed is not None:
            node.replace_all_uses_with(placed)
    return clean_up(graph_module)


def _flatten_maps(graph_module: GraphModule, node: Node) -> None:
    """Adds rows to rows where one operand of an addition is a map, and the other one rows in the shape of a map."""
    operands, shape = _tensor_arguments(node), shape_of(node)
    if len(operands) != 2 or any(is_constant(operand) or shape_of(operand) != shape for operand in operands):
        return
    flat = [shape[0], math.prod(shape[1:-1]), shape[-1]]
    if len(shape) < 4 or not any(_is_map_of(operand, flat) for operand in operands):
        return
    with replacing(graph_module, node):
        rows = [reshape(graph_module, operand, flat) for operand in operands]
        total = call(graph_module, aten.add.Tensor, *rows, **node.kwargs)
        node.replace_all_uses_with(reshape(graph_module, total, shape))


def _is_map_of(node: Node, flat: list[int]) -> bool:
    return is_call(node, aten.reshape.default) and list(shape_of(node.args[0])) == flat  # type: ignore[arg-type]


def _tensor_arguments(node: Node) -> list[Node]:
    """The arguments that carry rows: the first, and the second of an addition of two tensors of rows."""
    if node.target is not aten.add.Tensor:
        return [node.args[0]]  # type: ignore[list-item]
    return [argument for argument in node.args[:2] if has_tensor(argument)]  # type: ignore[misc]


def _acts_on_last(node: Node) -> bool:
    """Whether the other arguments concern the last dimension; scaling by a number, as of q, stays where it is."""
    if node.target is aten.layer_norm.default:
        return len(node.args[1]) == 1  # type: ignore[arg-type]
    if node.target is aten.mul.Tensor:
        return isinstance(other := node.args[1], Node) and shape_of(other) == shape_of(node)[-1:]
    return True


def _moved_rows(node: Node, rows: tuple[int, ...]) -> tuple[Node, Tensor] | None:
    """The earliest [B, N, C] whose whole rows `node` rearranges, and the row that each of its rows came from."""
    if len(shape_of(node)) < 2 or shape_of(node)[:-1] != rows:
        return None
    base, chain = trace(node, is_bijective)
    if not chain:
        return None
    for start, origin in enumerate([base, *chain[:-1]]):
        shape = shape_of(origin)
        if len(shape) == 3 and shape[1] > 1 and shape[2] == shape_of(node)[-1]:
            positions = whole_rows(origin, chain[start:])
            if positions is not None and is_transposition(shape, positions[..., 0]):  # as wide as node's: k is 1
                return origin, positions[..., 0]
    return None
