"""Moves a rearrangement of tokens in front of the LayerNorm before it, which then reads them where they are."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from .graph import aten, call, clean_up, find, is_call, reshape, shape_of
from .integer.context import FLOAT_NAME, keep_trace

ops = torch.ops.packqvit


def select_before_norm(graph_module: GraphModule) -> GraphModule:
    """Exchanges a LayerNorm and the selection of tokens that alone reads it; exact, as each row stays as it is.

    A plan has no copy for a selection in front of a LayerNorm (serialization/emitters.py).

    before: select_tokens(reshape(layer_norm(x)), index)
    after:  layer_norm(select_tokens(reshape(x), index))
    """
    for select in find(graph_module, ops.select_tokens.default):
        norm = _norm_before(select)
        if norm is None:
            continue
        x, *rest = norm.args
        with graph_module.graph.inserting_before(select):
            rows = reshape(graph_module, x, shape_of(select.args[0]))  # type: ignore[arg-type]
            moved = keep_trace(call(graph_module, ops.select_tokens.default, rows, *select.args[1:]), select)
            result = keep_trace(call(graph_module, ops.layer_norm.default, moved, *rest), norm)
        result.meta.update(_stands_for(select))
        select.replace_all_uses_with(result)
    return clean_up(graph_module)


def _stands_for(select: Node) -> dict[str, object]:
    """Which float value the rearranged rows are, as the selection or the reshape behind it tells."""
    for node in (select, *select.users):
        if FLOAT_NAME in node.meta:
            return {FLOAT_NAME: node.meta[FLOAT_NAME]}
    return {}


def _norm_before(select: Node) -> Node | None:
    """The LayerNorm whose rows a selection rearranges, where nothing else reads them and no row of zeros comes in."""
    index, node = select.args[1], select.args[0]
    if min(index) < 0:  # type: ignore[arg-type]
        return None
    if is_call(node, aten.reshape.default) and len(node.users) == 1:  # type: ignore[union-attr]
        node = node.args[0]  # type: ignore[union-attr]
    if not is_call(node, ops.layer_norm.default) or len(node.users) != 1:  # type: ignore[union-attr]
        return None
    assert isinstance(node, Node)
    return node if shape_of(select)[-1] == shape_of(node)[-1] else None
