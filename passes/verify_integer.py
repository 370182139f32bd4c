"""Checks that integer means integer."""

from __future__ import annotations

import dataclasses

import torch
from torch.fx import GraphModule, Node

from .reasons import module_path, reason_of


@dataclasses.dataclass(frozen=True)
class FloatOperator:
    """An operator that computes on floating-point values.

    Attributes:
        name: Of the node.
        operator: E.g. `aten.tanh.default`.
        reason: Why it was not lowered.
        module: Path of the module in the user's model; "" for the model itself.
    """

    name: str
    operator: str
    reason: str
    module: str = ""


def _is_end(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and str(node.target) in (
        "packqvit.quantize.default",
        "packqvit.dequantize.default",
        "packqvit.top_k.default",  # compare and copy dequantised scores, but do not compute
        "packqvit.take_scores.default",
    )


def _is_floating(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def float_operators(graph_module: GraphModule) -> list[FloatOperator]:
    """Every operator of a lowered graph that takes or gives floating-point values, but for the quantisers at its ends.

    Empty means: between the input quantiser and the output dequantiser there is integer arithmetic only.
    """
    found = []
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or _is_end(node):
            continue
        values = [node.meta.get("val"), *(argument.meta.get("val") for argument in node.all_input_nodes)]
        if any(map(_is_floating, values)) or not isinstance(node.meta.get("val"), torch.Tensor):
            reason = reason_of(node) or "the graph has not been lowered by passes.lower_to_integer"
            found.append(FloatOperator(node.name, str(node.target), reason, module_path(node)))
    return found
