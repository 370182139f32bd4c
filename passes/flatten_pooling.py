"""Spells the mean over a map of tokens, and pooling to one value, as the mean over tokens."""

import math

from torch.fx import GraphModule, Node

from .graph import arguments, aten, call, clean_up, find, is_call, keep_module, reshape, shape_of
from .layout import PERMUTES, permutation

_POOLINGS = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}
"""Pooling operators and the number of axes, the last ones, that they pool over."""


def flatten_pooling(graph_module: GraphModule) -> GraphModule:
    """Brings the mean over all between the images and the channels to one form.

    before: mean.dim(x [B, h, w, C], [1, 2]), or adaptive_avg_pool2d(permute(x, [0, 3, 1, 2]), 1)
    after:  mean.dim(reshape(x, [B, h * w, C]), [1])
    """
    for node in find(graph_module, *_POOLINGS):
        _as_mean(graph_module, node)
    for node in find(graph_module, aten.mean.dim):
        _before_permutation(graph_module, node)
    for node in find(graph_module, aten.mean.dim):
        _flat(graph_module, node)
    return clean_up(graph_module)


def _as_mean(graph_module: GraphModule, node: Node) -> None:
    """Pooling to one value is the mean over the last axes."""
    axes, sizes = _POOLINGS[node.target], node.args[1]  # type: ignore[index]
    if any(size != 1 for size in sizes):  # type: ignore[union-attr]
        return
    rank = len(shape_of(node))
    with graph_module.graph.inserting_before(node):
        mean = call(graph_module, aten.mean.dim, node.args[0], list(range(rank - axes, rank)), True)
    node.replace_all_uses_with(keep_module(mean, node))


def _before_permutation(graph_module: GraphModule, node: Node) -> None:
    """A mean over axes that were only exchanged before is one over the axes that they were."""
    given = arguments(node)
    moved = given["self"]
    if not is_call(moved, *PERMUTES) or not given["dim"] or given["dtype"] is not None:
        return
    order, rank = permutation(moved), len(shape_of(moved))
    axes = {axis % rank for axis in given["dim"]}
    kept = [order[axis] for axis in range(rank) if axis not in axes]
    if kept != sorted(kept):
        return
    with graph_module.graph.inserting_before(node):
        mean = call(graph_module, aten.mean.dim, moved.args[0], sorted(order[axis] for axis in axes))
        mean = reshape(graph_module, keep_module(mean, node), shape_of(node))
    node.replace_all_uses_with(mean)


def _flat(graph_module: GraphModule, node: Node) -> None:
    """Flattens the axes that a mean is over, where it is over all between the images and the channels."""
    given = arguments(node)
    x, shape = given["self"], shape_of(given["self"])
    axes = sorted(axis % len(shape) for axis in given["dim"] or [])
    if len(shape) < 4 or axes != list(range(1, len(shape) - 1)) or given["dtype"] is not None:
        return
    with graph_module.graph.inserting_before(node):
        rows = reshape(graph_module, x, [shape[0], math.prod(shape[1:-1]), shape[-1]])
        mean = call(graph_module, aten.mean.dim, rows, [1], *([True] if given["keepdim"] else []))
        mean = reshape(graph_module, keep_module(mean, node), shape_of(node))
    node.replace_all_uses_with(mean)
