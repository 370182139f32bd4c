"""Gives every operator that stays in float a reason of its own: what would have to be different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .graph import aten, is_call
from .kinds import PRODUCTS, SOFTMAXES, between, by_kind, is_move
from .reasons import (
    describe,
    name_cause,
    operator_of,
    reason_of,
    set_reason,
    stays,
    take_cause,
)


def explain(graph_module: GraphModule) -> GraphModule:
    """Completes the reasons of a lowered graph.

    What a pass decided keeps the reason that the pass gave. An operator between the products of an attention that
    stays in float has the reason of that attention; one that only moves values names what it stands between; all others
    are told by their kind. Where the reason is another operator that stays in float, that one's own reason is told too.

    Args:
        graph_module: Integer graph; only `node.meta` changes.
    """
    floats = [node for node in graph_module.graph.nodes if stays(node)]
    for node in floats:
        if is_call(node, *SOFTMAXES):
            _explain_attention(node)
    for node in floats:
        if reason_of(node) is None and is_move(node):
            reason, cause = between(node)
            set_reason(node, reason)
            name_cause(node, cause)
        elif reason_of(node) is None:
            set_reason(node, by_kind(node))
    _add_causes(floats)
    for node in floats:
        _add_name(node)
    return graph_module


def _add_causes(floats: list[Node]) -> None:
    """Adds to each reason that is another operator the reason of the operator with which it began."""
    named = {node.name: node for node in floats}
    causes = {node: named.get(cause) for node in floats if (cause := take_cause(node)) is not None}
    own = {node: reason_of(node) for node in floats}
    for node, first in causes.items():
        root, passed = first, {node}
        while root in causes and causes[root] is not None and root not in passed:
            passed.add(root)
            root = causes[root]
        if root is None or root is node:
            continue
        through = "" if root is first else f", and that goes back to {describe(root)}"
        set_reason(node, f"{own[node]}{through}: {own[root]}")


def _add_name(node: Node) -> None:
    """Names the operator in a reason that does not, where to_edge makes operators of other names of it."""
    reason, is_kept = reason_of(node), torch.Tag.core in getattr(node.target, "tags", ())
    if not is_kept and operator_of(node) not in str(reason):
        set_reason(node, f"{operator_of(node)}: {reason}")


def _explain_attention(softmax: Node) -> None:
    product = _region(softmax, lambda node: node.users)
    if is_call(softmax, aten.scaled_dot_product_attention.default) or product:
        if reason_of(softmax) is None:
            set_reason(softmax, by_kind(softmax))
    else:  # what the attention's passes said of it would lead astray
        set_reason(softmax, by_kind(softmax))
        return
    reason = f"it is part of the attention around {describe(softmax)}, which stays in float: {reason_of(softmax)}"
    for node in [*_region(softmax, lambda node: node.all_input_nodes), *product]:
        if reason_of(node) is None and not is_move(node):
            set_reason(node, reason)


def _region(softmax: Node, following: Callable[[Node], Any]) -> list[Node]:
    """The operators from a softmax to the next product of matrices on one side of it; none if there is no product."""
    if is_call(softmax, aten.scaled_dot_product_attention.default):
        return []
    found: dict[Node, None] = {}
    pending, has_product = list(following(softmax)), False
    while pending:
        node = pending.pop()
        if node in found or not stays(node) or is_call(node, aten.linear.default, *SOFTMAXES):
            continue
        found[node] = None
        if is_call(node, *PRODUCTS):
            has_product = True
        else:
            pending.extend(following(node))
    return list(found) if has_product else []
