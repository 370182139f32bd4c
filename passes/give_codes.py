"""Lets an integer program give the codes of its outputs instead of float values."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.errors import PackQViTError

from .graph import clean_up, constant, dtype_of, is_call
from .reasons import describe, origin, reason_of

ops = torch.ops.packqvit

OUTPUT_GRIDS = "packqvit_output_grids"
"""Key of a graph module's meta: the grids of its outputs, in order."""


@dataclasses.dataclass(frozen=True)
class OutputGrid:
    """value = scale * (code - zero_point).

    Attributes:
        scale: Value of one step.
        zero_point: Code of 0.
    """

    scale: float
    zero_point: int


def give_codes(graph_module: GraphModule) -> GraphModule:
    """Leaves out the dequantisers in front of the outputs, and keeps the grids in `graph_module.meta[OUTPUT_GRIDS]`.

    before: output(dequantize(codes))   float32
    after:  output(codes)               int8

    Args:
        graph_module: Integer graph of a model that `mark_outputs` has seen; changed in place.

    Raises:
        PackQViTError: An output is not one of codes: an operator that stays in float computes it, its channels have
            different steps, or come first.
    """
    (output,) = graph_module.graph.find_nodes(op="output")
    grids = []
    for index, node in enumerate(output.all_input_nodes):
        codes, grid = _codes(graph_module, node, f"output {index}")
        grids.append(grid)
        output.replace_input_with(node, codes)
    graph_module.meta[OUTPUT_GRIDS] = tuple(grids)
    return clean_up(graph_module)


def _codes(graph_module: GraphModule, node: Node, name: str) -> tuple[Node, OutputGrid]:
    if not is_call(node, ops.dequantize.default):
        source = origin(node)
        reason = f" ({because})" if (because := reason_of(source)) else ""
        raise PackQViTError(
            f"{name} has no codes: it comes from {describe(source)}, which stays in float{reason}; give it out in "
            'float (output="float"), or leave it out'
        )
    codes, scale, zero_point, _, *channels_first = node.args
    assert isinstance(codes, Node) and isinstance(scale, Node) and isinstance(zero_point, int)
    if any(channels_first):
        raise PackQViTError(
            f"{name} has its channels in front of its tokens, as only the dequantiser brings them: give out "
            'tokens or a map [B, h, w, C], or float (output="float")'
        )
    steps: Any = constant(graph_module, scale)
    if steps.numel() != 1 or dtype_of(codes) != torch.int8:
        raise PackQViTError(
            f"{name} has {steps.numel()} scales and codes of {dtype_of(codes)}: codes are given out where one scale "
            'serves all channels; give it out in float (output="float")'
        )
    return codes, OutputGrid(float(steps), zero_point)
