"""Spells what picks entries along one axis by a constant as index_select."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    aten,
    call,
    clean_up,
    constant,
    find,
    has_tensor,
    is_constant,
    replacing,
    reshape,
    shape_of,
)


def normalize_indices(graph_module: GraphModule) -> GraphModule:
    """Brings indexing by one constant tensor of numbers to index_select.

    A mask does not come here: what it picks has a dynamic shape, which is refused before.

    before: x[:, [0, 2, 5]], x[:, index [M, k]]
    after:  index_select(x, 1, index), with a reshape where the index has several axes
    """
    for node in find(graph_module, aten.index.Tensor):
        _select(graph_module, node)
    return clean_up(graph_module)


def _select(graph_module: GraphModule, node: Node) -> None:
    x: Any
    given: Any
    x, given = node.args
    axes = [axis for axis, index in enumerate(given) if index is not None]
    if len(axes) != 1 or not has_tensor(x) or not is_constant(given[axes[0]]):
        return
    (axis,) = axes
    index = constant(graph_module, given[axis])
    if index.dtype not in (torch.int64, torch.int32):
        return
    flat = (index.long() % shape_of(x)[axis]).flatten()
    with replacing(graph_module, node):
        selected = call(graph_module, aten.index_select.default, x, axis, add_constant(graph_module, flat, "index"))
        node.replace_all_uses_with(reshape(graph_module, selected, shape_of(node)))
