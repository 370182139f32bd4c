"""Replaces operators that write into their input."""

import logging

import torch
from torch.fx import GraphModule, Node

from .graph import aten, clean_up, has_tensor, is_call
from .layout import COPIES, PERMUTES, RESHAPES, is_layout

logger = logging.getLogger(__name__)

# What may return its input, or a view of it.
_ALIASES = {
    *RESHAPES,
    *PERMUTES,
    *COPIES,
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.expand.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
}


def remove_in_place(graph_module: GraphModule) -> GraphModule:
    """Turns `x.add_(y)` into `x.add(y)` wherever nothing reads the old `x` afterwards.

    before: add_.Tensor(x, y)
    after:  add.Tensor(x, y)
    """
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    roots: dict[Node, Node] = {}
    for node in position:
        aliases = is_layout(node) or is_call(node, *_ALIASES) or is_in_place(node)
        roots[node] = roots[node.args[0]] if aliases else node
    for node in position:
        if not is_in_place(node):
            continue
        root = roots[node]
        before = [other for other in position if roots[other] is root and position[other] < position[node]]
        late = [user for other in before for user in other.users if position[user] > position[node]]
        if root.op != "call_function" or late:
            logger.debug("%s writes into a tensor that is read elsewhere: left alone", node.name)
            continue
        node.target = _functional(node)
    return clean_up(graph_module)


def is_in_place(node: Node) -> bool:
    """Whether a node writes into its first argument."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target._schema.is_mutable and has_tensor(node) and _functional(node) is not None


def _functional(node: Node) -> object | None:
    packet, _, overload = str(node.target).removeprefix("aten.").partition(".")
    operator = getattr(aten, packet.removesuffix("_"), None) if packet.endswith("_") else None
    return getattr(operator, overload, None)
