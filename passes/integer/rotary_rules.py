"""Rotary positions of queries and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from packqvit_delegate.grids import Grid
from packqvit_delegate.ops.arithmetic import INT16_MAX
from packqvit_delegate.ops.rotary import ROTATION_SHIFT
from packqvit_delegate.requantizer import FRACTION_BITS_INT8, make_requantizer

from ..graph import aten, is_call, shape_of
from ..head_norm import match_rotary
from .context import Codes, LoweringContext, NotLowered, lowers, require_affine, require_residual

ops = torch.ops.packqvit


def rows_of_heads(context: LoweringContext, heads: Any, linear: Node) -> Any:
    """Codes [B, N, H, d] as [B, N, H * d], where they come from if they do."""
    shape = shape_of(linear)
    if is_call(heads, aten.reshape.default) and shape_of(heads.args[0]) == shape:
        return heads.args[0]
    return context.call(aten.reshape.default, (heads, list(shape)), linear)


@lowers(ops.rotary.default)
def lower_rotary(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(rotary(reshape(q), cosine, sine, partner)) -> packqvit.rotate."""
    found = match_rotary(node)
    if found is None:
        raise NotLowered(
            "it would have to rotate the heads of q or k of an attention, as their linear or norm gives them"
        )
    x = context.codes_of(found.source, "its input")
    step = require_residual(x.grid, "its input")
    out = require_affine(grid)
    cosine, sine = (context.tensor(factor).double() for factor in node.args[1:3])
    unit = max(float(cosine.abs().max()), float(sine.abs().max()), 1e-12) / INT16_MAX
    width = shape_of(found.linear)[-1]
    ratio = torch.full((width,), step.scale * unit * 2.0**ROTATION_SHIFT / out.scale, dtype=torch.float64)
    requantizer = make_requantizer(ratio, 1 << 15, FRACTION_BITS_INT8)
    args = (
        x.node if found.norm is None else rows_of_heads(context, x.node, found.linear),
        context.constant(f"{node.name}_cosine", torch.round(cosine / unit).to(torch.int16)),
        context.constant(f"{node.name}_sine", torch.round(sine / unit).to(torch.int16)),
        node.args[3],
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        requantizer.left_shift,
        requantizer.fraction_bits,
        out.qmin,
        out.qmax,
    )
    codes = context.call(ops.rotate.default, args, node)
    return Codes(context.call(aten.reshape.default, (codes, list(shape_of(node))), node), out)
