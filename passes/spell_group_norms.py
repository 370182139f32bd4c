"""Spells GroupNorms as means and products, for backends that have no operator for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from .graph import add_constant, arguments, aten, call, constant, find, replacing, shape_of
from .reasons import reason_of, set_reason


def spell_group_norms(graph_module: GraphModule) -> GraphModule:
    """Keeps a convolutional stem in one piece where a backend takes what stays in float.

    Before: group_norm(x)
    After:  d * rsqrt(mean(d * d) + eps) * weight + bias, d = x - mean(x), with x as [B, groups, C / groups * H, W]

    Args:
        graph_module: A lowered graph, with the reasons of what stays in float; changed in place.
    """
    for node in find(graph_module, aten.group_norm.default):
        if len(shape_of(node)) == 4:
            _spell(graph_module, node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _spell(graph_module: GraphModule, norm: Node) -> None:
    given = arguments(norm)
    batch, channels, height, width = shape_of(norm)
    groups, reason = given["num_groups"], reason_of(norm)

    def put(target: Any, *args: Any) -> Node:
        node = call(graph_module, target, *args)
        if reason is not None:
            set_reason(node, reason)
        return node

    with replacing(graph_module, norm):
        eps = add_constant(graph_module, torch.full((1, 1, 1, 1), given["eps"]), f"{norm.name}_eps")
        x = put(aten.reshape.default, given["input"], [batch, groups, channels // groups * height, width])
        centred = put(aten.sub.Tensor, x, put(aten.mean.dim, x, [2, 3], True))
        variance = put(aten.mean.dim, put(aten.mul.Tensor, centred, centred), [2, 3], True)
        scale = put(aten.rsqrt.default, put(aten.add.Tensor, variance, eps))
        result = put(aten.reshape.default, put(aten.mul.Tensor, centred, scale), [batch, channels, height, width])
        for operator, name in ((aten.mul.Tensor, "weight"), (aten.add.Tensor, "bias")):
            if given[name] is not None:
                result = put(operator, result, _per_channel(graph_module, given[name], f"{norm.name}_{name}"))
    norm.replace_all_uses_with(result)


def _per_channel(graph_module: GraphModule, value: Node, name: str) -> Node:
    """A constant [C] as [1, C, 1, 1]."""
    tensor = constant(graph_module, value)
    return add_constant(graph_module, tensor.reshape(1, -1, 1, 1), name)
