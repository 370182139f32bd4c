"""Products of two activations: gated MLPs."""

from __future__ import annotations

import torch
from torch.fx import Node

from packqvit_delegate.grids import AffineGrid, Grid
from packqvit_delegate.requantizer import FRACTION_BITS_INT8, make_requantizer

from ..graph import aten, shape_of
from .context import Codes, LoweringContext, lowers, output_codes, require_residual
from .norm_rules import lower_head_norm

ops = torch.ops.packqvit


@lowers(aten.mul.Tensor)
def lower_product(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(mul(x, y)) -> packqvit.multiply; of a norm and its factor -> packqvit.head_norm."""
    x, y = (context.find_codes(operand) for operand in node.args[:2])
    if x is None or y is None:
        return lower_head_norm(context, node, grid)
    (x_step, x_zero, x_most), (y_step, y_zero, y_most) = (_numbers(operand.grid) for operand in (x, y))
    product_shift = max(0, (x_most * y_most).bit_length() - 16)
    channels = shape_of(node)[-1]
    scales, zero_point, qmin, qmax = output_codes(grid, channels)
    fraction_bits = FRACTION_BITS_INT8 if qmax <= 127 else 0
    requantizer = make_requantizer(x_step * y_step * 2.0**product_shift / scales, 1 << 15, fraction_bits)
    args = (
        x.node,
        y.node,
        x_zero,
        y_zero,
        product_shift,
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        requantizer.left_shift,
        requantizer.fraction_bits,
        zero_point,
        qmin,
        qmax,
    )
    return Codes(context.call(ops.multiply.default, args, node), grid)


def _numbers(grid: Grid) -> tuple[float, int, int]:
    """Step and zero point of an operand's codes, and the largest distance of one from it."""
    if isinstance(grid, AffineGrid):
        return grid.scale, grid.zero_point, max(grid.qmax - grid.zero_point, grid.zero_point - grid.qmin)
    return require_residual(grid, "what it multiplies").scale, 0, 1 << 15
