"""Spells the pooling of a map of tokens, or of groups of tokens, as the mean or the maximum over tokens."""

from __future__ import annotations

import math
from typing import Any

from torch.fx import GraphModule, Node

from .graph import arguments, aten, call, clean_up, find, first_result, is_call, keep_module, reshape, shape_of
from .layout import PERMUTES, permutation
from .patterns import POOLINGS

_MEANS = {
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
}
"""Operators that take means of windows, and the number of axes, the last ones, that they pool over."""

_MAXIMA = {
    aten.adaptive_max_pool1d.default: 1,
    aten.adaptive_max_pool2d.default: 2,
    aten.adaptive_max_pool3d.default: 3,
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
}
"""The same of maxima; the adaptive ones give indices, too."""


def flatten_pooling(graph_module: GraphModule) -> GraphModule:
    """Brings means and maxima over axes between the images and the channels to one form.

    before: mean.dim(x [B, h, w, C], [1, 2]), or adaptive_avg_pool2d(permute(x, [0, 3, 1, 2]), 1)
    after:  mean.dim(reshape(x, [B, h * w, C]), [1])

    before: max.dim(x, 1)[0], adaptive_max_pool1d(transpose(x, 1, 2), 1)[0]
    after:  amax(x, [1])

    before: amax(x [B, M, g, C], [2]), of groups of tokens
    after:  reshape(amax(reshape(x, [B * M, g, C]), [1]), [B, M, C])
    """
    for node in find(graph_module, *_MEANS, *_MAXIMA):
        _over_axes(graph_module, node)
    for node in find(graph_module, aten.max.dim):
        _as_maximum(graph_module, node)
    clean_up(graph_module)  # what is dead would still read what comes now
    for node in find(graph_module, *POOLINGS):
        _with_the_one_before(graph_module, node)
    for node in find(graph_module, *POOLINGS):
        _before_permutation(graph_module, node)
    for node in find(graph_module, *POOLINGS):
        _flat(graph_module, node)
    return clean_up(graph_module)


def _over_axes(graph_module: GraphModule, node: Node) -> None:
    """Pooling to one value is a mean or a maximum over the last axes."""
    is_mean = node.target in _MEANS
    axes, given = (_MEANS if is_mean else _MAXIMA)[node.target], arguments(node)  # type: ignore[index]
    x = given["self"]
    sizes = list(shape_of(x)[-axes:])
    if "output_size" in given:
        pools = all(size == 1 for size in given["output_size"])
    else:
        kernel = list(given["kernel_size"]) * (axes // len(given["kernel_size"]))
        pools = kernel == sizes and not any(given["padding"]) and given.get("divisor_override") is None
        pools = pools and all(step == 1 for step in given.get("dilation", ()))
    result: Node | None = node if is_mean or "output_size" not in given else first_result(node)
    if not pools or result is None:
        return
    rank = len(shape_of(x))
    target: Any = aten.mean.dim if is_mean else aten.amax.default
    with graph_module.graph.inserting_before(node):
        pooled = call(graph_module, target, x, list(range(rank - axes, rank)), True)
    result.replace_all_uses_with(keep_module(pooled, node))


def _as_maximum(graph_module: GraphModule, node: Node) -> None:
    """The values of max.dim are those of amax."""
    given, values = arguments(node), first_result(node)
    if values is None:
        return
    with graph_module.graph.inserting_before(node):
        keeps = [True] if given["keepdim"] else []
        pooled = call(graph_module, aten.amax.default, given["self"], [given["dim"]], *keeps)
    values.replace_all_uses_with(keep_module(pooled, node))


def _axes(node: Node) -> list[int]:
    """The axes that a mean or a maximum is over; none where it is in another type."""
    given = arguments(node)
    if not given["dim"] or given.get("dtype") is not None:
        return []
    rank = len(shape_of(given["self"]))
    return sorted({axis % rank for axis in given["dim"]})


def _pooled(graph_module: GraphModule, node: Node, x: Node, axes: list[int]) -> Node:
    """What a mean or a maximum is of another value over other axes, in the shape that it has."""
    target: Any = node.target
    keeps = len(shape_of(x)) == len(shape_of(node))
    pooled = keep_module(call(graph_module, target, x, axes, *([True] if keeps else [])), node)
    return reshape(graph_module, pooled, shape_of(node))


def _with_the_one_before(graph_module: GraphModule, node: Node) -> None:
    """A mean of means, or a maximum of maxima, is one over the axes of both."""
    inner = arguments(node)["self"]
    if not is_call(inner, node.target) or len(inner.users) != 1 or not _axes(node) or not _axes(inner):  # type: ignore
        return
    axes, rank = _axes(inner), len(shape_of(inner.args[0]))
    left = list(range(rank)) if arguments(inner)["keepdim"] else [axis for axis in range(rank) if axis not in axes]
    with graph_module.graph.inserting_before(node):
        both = sorted({*axes, *(left[axis] for axis in _axes(node))})
        node.replace_all_uses_with(_pooled(graph_module, node, inner.args[0], both))


def _before_permutation(graph_module: GraphModule, node: Node) -> None:
    """Pooling over axes that were only exchanged before is pooling over the axes that they were."""
    moved, axes = arguments(node)["self"], _axes(node)
    if not is_call(moved, *PERMUTES) or not axes:
        return
    order, rank = permutation(moved), len(shape_of(moved))
    kept = [order[axis] for axis in range(rank) if axis not in axes]
    if kept != sorted(kept):
        return
    with graph_module.graph.inserting_before(node):
        before = sorted(order[axis] for axis in axes)
        node.replace_all_uses_with(_pooled(graph_module, node, moved.args[0], before))


def _flat(graph_module: GraphModule, node: Node) -> None:
    """Brings the axes that are pooled over into one, and those of groups of tokens to the images."""
    x, axes = arguments(node)["self"], _axes(node)
    shape = shape_of(x)
    if len(shape) < 4 or not axes or axes[0] == 0 or axes[-1] == len(shape) - 1:
        return
    kept = [axis for axis in range(len(shape) - 1) if axis not in axes]
    order = [*kept, *axes, len(shape) - 1]
    with graph_module.graph.inserting_before(node):
        if order != sorted(order):
            x = call(graph_module, aten.permute.default, x, order)
        tokens = math.prod(shape[axis] for axis in axes)
        rows = reshape(graph_module, x, [math.prod(shape[axis] for axis in kept), tokens, shape[-1]])
        node.replace_all_uses_with(_pooled(graph_module, node, rows, [1]))
