"""LayerNorm and what it is part of, requantisation, and functions of one variable."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

from packqvit_delegate.errors import PlanError
from packqvit_delegate.grids import AffineGrid, Grid, ResidualGrid
from packqvit_delegate.ops.arithmetic import INT16_MAX
from packqvit_delegate.ops.layer_norm import normalized_fraction_bits
from packqvit_delegate.requantizer import FRACTION_BITS_INT8, make_requantizer

from ..graph import arguments, aten, is_call, shape_of
from ..head_norm import match_head_norm, match_row_norm
from ..patterns import UNARY_FUNCTIONS
from .context import Codes, LoweringContext, NotLowered, lowers, output_codes, require_affine, require_residual

MAX_CHANNELS = 4096
_MAX_BIAS = (1 << 30) - 1

ops = torch.ops.packqvit


@lowers(aten.layer_norm.default)
def lower_layer_norm(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(layer_norm(x)) -> packqvit.layer_norm; its result may be the residual stream."""
    if match_head_norm(node) is not None:
        return lower_head_norm(context, node, grid)
    scales, zero_point, qmin, qmax = output_codes(grid, shape_of(node)[-1])
    norm = norm_operands(context, node, scales, zero_point)
    return Codes(context.call(ops.layer_norm.default, (*norm.operands, *norm.numbers, qmin, qmax), node), grid)


@dataclasses.dataclass(frozen=True)
class NormOperands:
    """What every operator with a LayerNorm of the last axis reads.

    Attributes:
        operands: Codes, channel shift, weight and bias.
        numbers: Epsilon and output shift.
    """

    operands: tuple[Any, ...]
    numbers: tuple[int, int]


def norm_operands(context: LoweringContext, node: Node, scales: torch.Tensor, zero_point: int) -> NormOperands:
    """The operands of a LayerNorm for results with these steps.

    Raises:
        NotLowered: Its input has no codes of a stream, or it is over other axes than the last one.
        PlanError: Its weights are not finite, or too large.
    """
    x = context.codes_of(node.args[0], "its input")
    stream = _normalized_grid(x.grid)
    given = arguments(node)
    channels = shape_of(node)[-1]
    if list(given["normalized_shape"]) != [channels]:
        shape = list(given["normalized_shape"])
        raise NotLowered(
            f"it normalises over the last {len(shape)} axes, {shape}: it would have to be the last one alone"
        )
    _require_channels(channels)
    gamma = torch.ones(channels) if given["weight"] is None else context.tensor(given["weight"])
    beta = torch.zeros(channels) if given["bias"] is None else context.tensor(given["bias"])
    offset = beta.double() / scales + zero_point
    weight, bias, output_shift = _norm_constants(gamma.double() / scales, offset, channels)
    operands = (
        x.node,
        None if stream.shift is None else context.constant(f"{node.name}_channel_shift", stream.shift),
        context.constant(f"{node.name}_weight", weight),
        context.constant(f"{node.name}_bias", bias),
    )
    return NormOperands(operands, (_epsilon(given["eps"], stream.scale, channels), output_shift))


def _normalized_grid(grid: Grid) -> ResidualGrid:
    """The grid of what a LayerNorm reads: 8 bits of an attention or a function are codes as good as a stream's.

    Its zero point is the same for all channels, so that the mean takes it out.
    """
    if isinstance(grid, AffineGrid):
        return ResidualGrid(grid.scale, None, torch.int8)
    return require_residual(grid, "its input")


def _require_channels(channels: int) -> None:
    if channels > MAX_CHANNELS or channels < 2:
        raise NotLowered(f"it has {channels} channels: they would have to be 2 to {MAX_CHANNELS}")


def _epsilon(eps: float, step: float, channels: int) -> int:
    return min(round(eps / step**2 * channels**2), 1 << 57)


@lowers(aten.rms_norm.default)
def lower_head_norm(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(mul(rms_norm(reshape(q)), factor)) -> packqvit.head_norm; also of a LayerNorm, or of whole rows."""
    found = match_head_norm(node) or match_row_norm(node)
    if found is None:
        raise NotLowered(
            "it would have to be a norm over the last axis, the channels of tokens or of the heads of q or k of an "
            "attention, with at most one constant factor behind it for each channel or head"
        )
    x = context.codes_of(found.source, "its input")
    stream = require_residual(x.grid, "its input")
    if stream.shift is not None:
        raise NotLowered(
            "its input is the residual stream in 8 bits, whose channels have steps of their own: the stream would have "
            'to have 16 bits, residual="int16" in the configuration'
        )
    given = arguments(found.norm)
    channels, width = shape_of(found.norm)[-1], shape_of(found.source)[-1]
    heads = width // channels
    _require_channels(channels)
    scales, zero_point, qmin, qmax = output_codes(grid, width)
    gamma = torch.ones(channels) if given["weight"] is None else context.tensor(given["weight"])
    beta = torch.zeros(channels) if given.get("bias") is None else context.tensor(given["bias"])
    factor = context.tensor(found.factor) if isinstance(found.factor, Node) else torch.tensor(found.factor or 1.0)
    scaled = factor.double().expand(heads, channels) / scales.reshape(heads, channels)
    offset = (scaled * beta.double()).flatten() + zero_point
    weight, bias, output_shift = _norm_constants((scaled * gamma.double()).flatten(), offset, channels)
    eps = torch.finfo(torch.float32).eps if given["eps"] is None else given["eps"]
    args = (
        x.node,
        context.constant(f"{node.name}_weight", weight),
        context.constant(f"{node.name}_bias", bias),
        heads,
        is_call(found.norm, aten.layer_norm.default),
        _epsilon(eps, stream.scale, channels),
        output_shift,
        qmin,
        qmax,
    )
    codes = context.call(ops.head_norm.default, args, found.source if heads > 1 else node)
    if shape_of(found.source) != shape_of(node):
        codes = context.call(aten.reshape.default, (codes, list(shape_of(node))), node)
    return Codes(codes, grid)


def _norm_constants(steps: torch.Tensor, offset: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Weight, bias and output shift, from gamma in output steps and from beta in output codes.

    `channels` are normalised together.
    """
    fraction_bits = normalized_fraction_bits(channels)
    largest = max(float(steps.abs().max()), 1e-12)
    if not math.isfinite(largest) or not bool(torch.isfinite(offset).all()):
        raise PlanError("a LayerNorm has weights that are not finite")
    output_shift = math.floor(math.log2(INT16_MAX / largest)) + fraction_bits
    furthest = max(float(offset.abs().max()), 1.0)
    output_shift = min(output_shift, math.floor(math.log2((_MAX_BIAS >> 1) / furthest)), 30)
    if output_shift < 1:
        raise PlanError("a LayerNorm's weight is too large for its output grid")
    weight = torch.round(steps * 2.0 ** (output_shift - fraction_bits)).clamp(-INT16_MAX, INT16_MAX).to(torch.int16)
    bias = torch.round(offset * 2.0**output_shift) + 2 ** (output_shift - 1)
    return weight, bias.clamp(-_MAX_BIAS, _MAX_BIAS).to(torch.int32), output_shift


@lowers(ops.activation.default)
def lower_activation(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(activation(x, factor)) -> packqvit.requantize."""
    x = context.codes_of(node.args[0], "its input")
    channels = shape_of(node)[-1]
    steps = require_residual(x.grid, "its input").channel_scales(channels)
    if len(node.args) > 1:
        steps = steps * context.tensor(node.args[1]).double()
    scales, zero_point, qmin, qmax = output_codes(grid, channels)
    fraction_bits = FRACTION_BITS_INT8 if qmax <= 127 else 0
    requantizer = make_requantizer(steps / scales, 1 << 15, fraction_bits)
    args = (
        x.node,
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        requantizer.left_shift,
        requantizer.fraction_bits,
        zero_point,
        qmin,
        qmax,
    )
    return Codes(context.call(ops.requantize.default, args, node), grid)


@lowers(*UNARY_FUNCTIONS)
def lower_unary(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(gelu(x)) -> packqvit.lookup_table."""
    if not isinstance(grid, AffineGrid):
        raise NotLowered  # what reads its result is why
    out = grid
    x = context.codes_of(node.args[0], "its input")
    affine = require_affine(x.grid, "its input")
    function: Any = node.target
    codes = table_of(lambda values: function(values, *node.args[1:], **node.kwargs), affine, out)
    table = context.constant(f"{node.name}_table", codes)
    return Codes(context.call(ops.lookup_table.default, (x.node, table), node), out)


def table_of(function: Callable[[torch.Tensor], torch.Tensor], x: AffineGrid, out: AffineGrid) -> torch.Tensor:
    """The codes of a function's results for each code of its argument from -128 to 127: int8 [256].

    Where it has no value, it counts as 0.
    """
    values = (torch.arange(-128, 128).double() - x.zero_point) * x.scale
    results = function(values).nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf)
    codes = torch.round(results / out.scale) + out.zero_point
    return codes.clamp(out.qmin, out.qmax).to(torch.int8)
