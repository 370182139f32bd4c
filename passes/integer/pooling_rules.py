"""The mean and the maximum over tokens."""

from __future__ import annotations

import torch
from torch.fx import Node

from packqvit_delegate.grids import AffineGrid, Grid
from packqvit_delegate.requantizer import FRACTION_BITS_INT8, make_requantizer

from ..graph import arguments, aten, is_call, shape_of
from ..patterns import POOLINGS
from .context import Codes, LoweringContext, NotLowered, lowers, output_codes, require_residual

ops = torch.ops.packqvit


@lowers(*POOLINGS)
def lower_pooling(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(mean(x, [1])) -> packqvit.mean_tokens; quantize(amax(x, [1])) -> packqvit.max_tokens."""
    is_mean, shape = is_call(node, aten.mean.dim), shape_of(node.args[0])  # type: ignore[arg-type]
    axes = [axis % len(shape) for axis in arguments(node)["dim"] or range(len(shape))]
    if axes != [1] or len(shape) != 3:
        raise NotLowered(
            f"it is a {'mean' if is_mean else 'maximum'} over {'dim' if len(axes) == 1 else 'dims'} "
            f"{', '.join(map(str, axes))} of {list(shape)}: it would have to be over the tokens of [batch, tokens, "
            "channels], dim=1"
        )
    x = context.codes_of(node.args[0], "its input")
    channels, tokens = shape[-1], shape[1]
    zero_point_in = 0
    if isinstance(x.grid, AffineGrid):
        steps = torch.full((channels,), x.grid.scale, dtype=torch.float64)
        zero_point_in = x.grid.zero_point
    else:
        steps = require_residual(x.grid).channel_scales(channels)
    scales, zero_point, qmin, qmax = output_codes(grid, channels)
    fraction_bits = FRACTION_BITS_INT8 if qmax <= 127 else 0
    summands = tokens if is_mean else 1
    bound = summands * ((1 << 15) + abs(zero_point_in))
    requantizer = make_requantizer(steps / summands / scales, bound, fraction_bits)
    bias = torch.full((channels,), -zero_point_in * summands, dtype=torch.int32)
    args = (
        x.node,
        context.constant(f"{node.name}_bias", bias),
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        requantizer.left_shift,
        requantizer.fraction_bits,
        zero_point,
        qmin,
        qmax,
    )
    pooled = context.call(ops.mean_tokens.default if is_mean else ops.max_tokens.default, args, node)
    if len(shape_of(node)) != len(shape):  # keepdim=False
        pooled = context.call(aten.reshape.default, (pooled, list(shape_of(node))), node)
    return Codes(pooled, grid)
