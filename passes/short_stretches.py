"""Finds the integer operators that are not worth it: between float operators, with little to compute."""

from __future__ import annotations

import math

import torch
from torch.fx import GraphModule, Node

from .graph import arguments, is_call, shape_of
from .integer.context import FLOAT_NAME, SOURCE
from .layout import is_layout

ops = torch.ops.packqvit

LEAST = 32
"""Multiplications for each value that is converted on the way in or out, from which on integers are worth it.

A vector instruction multiplies four times as many 8-bit codes as float32 numbers: 32 multiplications take one to two
cycles less on a core with 256-bit vectors, and as much takes a value that is read, converted and written once more.
"""


def short_stretches(graph_module: GraphModule) -> dict[str, str]:
    """What had better stay in float, where a backend runs float operators well.

    A stretch is all that is connected by codes. It pays for what it converts: the values that `quantize` reads and
    `dequantize` gives. It is short where it has fewer than LEAST multiplications for each of these.

    Args:
        graph_module: Integer graph; it stays as it is.

    Returns:
        Names of float nodes that have codes in it -> why they should have none.
    """
    reasons: dict[str, str] = {}
    for stretch in _stretches(graph_module):
        multiplications = sum(map(_multiplications, stretch))
        converted = sum(
            math.prod(shape_of(node)) for node in stretch if is_call(node, ops.quantize.default, ops.dequantize.default)
        )
        if multiplications >= LEAST * converted:
            continue
        reason = (
            f"it is one of {len(stretch)} integer operators between float ones, with {multiplications} multiplications "
            f"for {converted} values that had to be converted: left to the backend that runs those, as integers "
            f"are worth it from {LEAST} multiplications for each value on"
        )
        for node in stretch:
            reasons.update({node.meta[key]: reason for key in (SOURCE, FLOAT_NAME) if key in node.meta})
    return reasons


def _stretches(graph_module: GraphModule) -> list[list[Node]]:
    """Integer operators by what is connected, in the order of the graph."""
    found: dict[Node, list[Node]] = {}
    for node in graph_module.graph.nodes:
        if not _has_codes(node) and not is_call(node, ops.dequantize.default):
            continue
        joined = {id(found[operand]): found[operand] for operand in node.all_input_nodes if _has_codes(operand)}
        stretch = [*(member for other in joined.values() for member in other), node]
        found.update(dict.fromkeys(stretch, stretch))
    return list({id(stretch): stretch for stretch in found.values()}.values())


def _has_codes(node: Node) -> bool:
    """Whether a node computes or moves codes, or makes them."""
    if node.op != "call_function" or not isinstance(value := node.meta.get("val"), torch.Tensor):
        return False
    is_ours = getattr(node.target, "namespace", "") == "packqvit" or is_layout(node)
    return is_ours and not value.is_floating_point()


def _multiplications(node: Node) -> int:
    """Of a linear, a patch embedding or one half of an attention; what others compute is small beside it."""
    if is_call(node, ops.attention_scores.default, ops.attention_values.default):
        given = arguments(node)
        matrix = node if is_call(node, ops.attention_scores.default) else given["p"]
        width = shape_of(given["q"] if matrix is node else given["v"])[-1] // shape_of(matrix)[1]
        return math.prod(shape_of(matrix)) * width
    if is_call(
        node,
        ops.linear.default,
        ops.linear_add.default,
        ops.linear_accumulate.default,
        ops.patch_embedding.default,
    ):
        given = arguments(node)
        return math.prod(shape_of(given["x"])) * shape_of(given["weight"])[0]
    return 0
