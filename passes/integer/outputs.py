"""What float consumers read of codes, the model's output above all: dequantised behind the moves of tokens."""

from __future__ import annotations

import dataclasses

import torch
from torch.fx import Node

from packqvit_delegate.grids import AffineGrid, ResidualGrid

from ..graph import aten, is_call, shape_of
from ..layout import is_layout, joined_rows, trace
from .context import Codes, LoweringContext
from .token_rules import are_rows, channels_first_rows, gather_codes

ops = torch.ops.packqvit


@dataclasses.dataclass(frozen=True)
class Leaving:
    """Codes [..., C] or accumulators, and what they stand for in float.

    Attributes:
        codes: int8, int16 or int32.
        scale: float32 [1] or [C].
        zero_point: The code of 0.
    """

    codes: Node
    scale: torch.Tensor
    zero_point: int = 0


def leaving(codes: Codes | None) -> Leaving | None:
    """How codes become float values; None where these are there without codes, or codes stand for something else."""
    if codes is None or not isinstance(codes.grid, (AffineGrid, ResidualGrid)):
        return None
    source = codes.node
    while is_call(source, ops.select_tokens.default, aten.reshape.default):
        source = source.args[0]  # type: ignore[assignment]
    if is_call(source, ops.quantize.default):
        return None
    grid = codes.grid
    if isinstance(grid, AffineGrid):
        return Leaving(codes.node, torch.tensor([grid.scale]), grid.zero_point)
    if grid.shift is None:
        return Leaving(codes.node, torch.tensor([grid.scale]))
    return Leaving(codes.node, grid.channel_scales(shape_of(codes.node)[-1]).float())


def dequantized(context: LoweringContext, value: Leaving, source: Node, channels_first: bool = False) -> Node:
    """The real values, at the graph's insertion point; named after the float node that they are."""
    scale = context.constant(f"{source.name}_scale", value.scale)
    args = (value.codes, scale, value.zero_point, len(shape_of(source)) - 1)
    return context.call(ops.dequantize.default, (*args, True) if channels_first else args, source)


def leave_behind_moves(context: LoweringContext, node: Node, accumulators: dict[Node, Leaving]) -> None:
    """Lets what reads a moved value in float read codes that were moved and then dequantised.

    Channels that come to stand in front of the tokens, as in a map [B, C, h, w], are brought there by the dequantiser.

    before: permute(reshape(dequantize(x)))
    after:  dequantize(reshape(x), channels_first=True)

    Args:
        context: The codes.
        node: A move of elements; nothing happens where its elements are no whole rows of codes.
        accumulators: Of linears whose results are wanted in float, by what these are now.
    """
    if context.keeps(node) or all(map(is_layout, node.users)):
        return
    base, _ = trace(node)
    value = accumulators.get(base) or leaving(context.find_codes(base))
    if value is None:
        return
    with context.graph_module.graph.inserting_before(node.next):
        result = _moved(context, node, base, value)
    if result is not None:
        node.replace_all_uses_with(result, delete_user_cb=lambda user: not is_layout(user))


def _moved(context: LoweringContext, node: Node, base: Node, value: Leaving) -> Node | None:
    shape = list(shape_of(node))
    if (codes := context.codes.get(node)) is not None:
        moved = leaving(codes)
        return None if moved is None else dequantized(context, moved, node)
    if not are_rows(value.codes):
        return None
    rows = joined_rows(base, node)
    if rows is not None:
        codes_node = gather_codes(context, value.codes, rows.flatten(), value.zero_point, node)
        if list(shape_of(codes_node)) != shape:
            codes_node = context.call(aten.reshape.default, (codes_node, shape), node)
        scale = value.scale if value.scale.numel() == 1 else value.scale.repeat(rows.shape[-1])
        return dequantized(context, dataclasses.replace(value, codes=codes_node, scale=scale), node)
    positions = channels_first_rows(base, node)
    if positions is None:
        return None
    codes_node = gather_codes(context, value.codes, positions.flatten(), value.zero_point, node)
    rows_shape = [shape[0], *shape[2:], shape[1]]
    if list(shape_of(codes_node)) != rows_shape:
        codes_node = context.call(aten.reshape.default, (codes_node, rows_shape), node)
    return dequantized(context, dataclasses.replace(value, codes=codes_node), node, channels_first=True)
