"""Quantisers in a converted graph, and looking through them."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

_QUANTIZE_NAMES = ("quantize_per_tensor", "quantize_offset", "quantize_probabilities")
_DEQUANTIZE_NAMES = ("dequantize_per_tensor", "dequantize_per_channel", "dequantize_offset", "dequantize_probabilities")


def _is_op(node: object, namespaces: tuple[str, ...], names: tuple[str, ...]) -> bool:
    if not isinstance(node, Node) or node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return False
    return node.target.namespace in namespaces and node.target._opname in names


def is_quantize(node: object) -> bool:
    """Whether a node turns float values into codes."""
    return _is_op(node, ("quantized_decomposed", "packqvit"), _QUANTIZE_NAMES)


def is_dequantize(node: object) -> bool:
    """Whether a node turns codes of the quantised (not yet integer) graph into float values."""
    return _is_op(node, ("quantized_decomposed", "packqvit"), _DEQUANTIZE_NAMES)


def skip_codes(node: Node) -> Node:
    """The node behind a dequantize(quantize(.)) pair or an observer, else the node itself."""
    while True:
        if is_dequantize(node) and is_quantize(node.args[0]):
            node = node.args[0].args[0]  # type: ignore[union-attr,assignment]
        else:
            return node


def value_users(node: Node) -> list[Node]:
    """The users of a value, seen through q/dq pairs."""
    found: list[Node] = []
    for user in node.users:
        found.extend(value_users(user) if is_quantize(user) or is_dequantize(user) else [user])
    return found


def codes_of_constant(node: object) -> Node | None:
    """The get_attr of codes whose real values, on a grid per tensor, a node of a converted graph is; else None."""
    if not _is_op(node, ("quantized_decomposed",), ("dequantize_per_tensor",)):
        return None
    codes: Any = node.args[0]  # type: ignore[attr-defined]
    return codes if codes.op == "get_attr" else None
