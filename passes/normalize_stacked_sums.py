"""Brings sums over a stack of values, as parallel branches are spelled, to additions."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from .graph import arguments, aten, call, clean_up, find, is_call, replacing, shape_of


def normalize_stacked_sums(graph_module: GraphModule) -> GraphModule:
    """Replaces the sum or the mean over the new axis of a stack.

    before: stack([a, b], 0) -> sum [0]
    after:  add(a, b), times 1 / 2 for the mean
    """
    for node in find(graph_module, aten.sum.dim_IntList, aten.mean.dim):
        stack = node.args[0]
        if not is_call(stack, aten.stack.default):
            continue
        assert isinstance(stack, Node)
        given, stacked = arguments(node), arguments(stack)
        rank = len(shape_of(stack))
        axes = [axis % rank for axis in given["dim"] or []]
        if axes != [stacked["dim"] % rank] or given["keepdim"] or given["dtype"] is not None:
            continue
        first, *others = stacked["tensors"]
        with replacing(graph_module, node):
            result = first
            for other in others:
                result = call(graph_module, aten.add.Tensor, result, other)
            if is_call(node, aten.mean.dim):
                result = call(graph_module, aten.mul.Tensor, result, 1 / len(stacked["tensors"]))
        node.replace_all_uses_with(result)
    return clean_up(graph_module)
