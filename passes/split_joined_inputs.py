"""Spells a linear that reads a concatenation of channels as a sum of linears, one for each part."""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule, Node

from .graph import (
    add_linear,
    arguments,
    aten,
    call,
    clean_up,
    find,
    has_tensor,
    is_call,
    linear_parameters,
    replacing,
    shape_of,
)


def split_joined_inputs(graph_module: GraphModule) -> GraphModule:
    """Lets a linear read each part of a concatenation by itself, with its columns of the weights.

    So heads read the class token and the mean of the patches, or the features of several layers: values of different
    grids, which do not become one tensor of codes.

    before: linear(cat([x, y], -1), W, b)
    after:  add(linear(x, W[:, :X], b), linear(y, W[:, X:]))
    """
    for node in find(graph_module, aten.linear.default):
        parts, parameters = _parts(node.args[0]), linear_parameters(graph_module, node)
        if len(parts) < 2 or parameters is None:
            continue
        weight, bias = parameters
        total: Node | None = None
        with replacing(graph_module, node):
            for part, columns in zip(parts, weight.split([shape_of(part)[-1] for part in parts], 1), strict=True):
                linear = add_linear(graph_module, node, columns, bias if total is None else None, "part", part)
                total = linear if total is None else call(graph_module, aten.add.Tensor, total, linear)
        assert total is not None
        node.replace_all_uses_with(total)
    return clean_up(graph_module)


def _parts(value: Any) -> list[Node]:
    """What is put side by side along the last axis; nothing where a value is no concatenation of channels."""
    if not is_call(value, aten.cat.default):
        return []
    given = arguments(value)
    parts: list[Node] = list(given["tensors"])
    return parts if given["dim"] in (-1, len(shape_of(value)) - 1) and all(map(has_tensor, parts)) else []
