"""Spells the concatenation of moved tokens of one value as one selection of its tokens."""

import math

import torch
from torch.fx import GraphModule, Node

from .graph import arguments, aten, clean_up, find, has_tensor, replacing, reshape, shape_of
from .layout import NOTHING, gather_rows, index_map, is_layout, row_positions, trace


def join_rows(graph_module: GraphModule) -> GraphModule:
    """Gathers at once the rows that a model takes apart and concatenates again.

    Merging of 2 x 2 patches puts the rows of four tokens side by side; a cyclic shift is spelled in two halves.

    before: cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
    after:  reshape(index_select(x, 1, index), [B, h / 2, w / 2, 4 * C])
    """
    for node in find(graph_module, aten.cat.default):
        joined = _joined(node)
        if joined is None:
            continue
        base, positions = joined
        with replacing(graph_module, node):
            rows = gather_rows(graph_module, base, positions)
            result = reshape(graph_module, rows, shape_of(node))
        node.replace_all_uses_with(result)
    return clean_up(graph_module)


def _joined(node: Node) -> tuple[Node, torch.Tensor] | None:
    """The value that all parts of a concatenation are moves of, and which rows of it, int64 [..., k]."""
    parts, axis = node.args[0], arguments(node)["dim"]
    traced = [trace(part, is_layout) for part in parts]  # type: ignore[union-attr, arg-type]
    bases = {base for base, _ in traced}
    if len(bases) != 1 or not all(chain for _, chain in traced):
        return None
    (base,) = bases
    if not has_tensor(base) or base.op == "get_attr" or len(shape_of(base)) < 2:
        return None
    channels = shape_of(base)[-1]
    index = torch.cat([index_map(base, chain) for _, chain in traced], axis)
    if index.shape[-1] % channels or math.prod(index.shape) == 0:
        return None
    positions = row_positions(index.reshape(*index.shape[:-1], -1, channels), channels)
    return None if positions is None or bool((positions == NOTHING).any()) else (base, positions)
