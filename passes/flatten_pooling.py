"""Spells the mean over a map of tokens as the mean over tokens."""

import math

from torch.fx import GraphModule

from .graph import arguments, aten, call, clean_up, find, keep_module, reshape, shape_of


def flatten_pooling(graph_module: GraphModule) -> GraphModule:
    """Flattens the axes of tokens that a mean is over, where it is over all between the images and the channels.

    before: mean.dim(x [B, h, w, C], [1, 2])
    after:  mean.dim(reshape(x, [B, h * w, C]), [1])
    """
    for node in find(graph_module, aten.mean.dim):
        given = arguments(node)
        x, shape = given["self"], shape_of(given["self"])
        axes = sorted(axis % len(shape) for axis in given["dim"] or [])
        if len(shape) < 4 or axes != list(range(1, len(shape) - 1)) or given["dtype"] is not None:
            continue
        with graph_module.graph.inserting_before(node):
            rows = reshape(graph_module, x, [shape[0], math.prod(shape[1:-1]), shape[-1]])
            mean = call(graph_module, aten.mean.dim, rows, [1], *([True] if given["keepdim"] else []))
            mean = reshape(graph_module, keep_module(mean, node), shape_of(node))
        node.replace_all_uses_with(mean)
    return clean_up(graph_module)
