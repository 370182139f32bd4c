"""Linear layers, with and without the residual addition, and the patch embedding."""

from __future__ import annotations

import dataclasses

import torch
from torch.fx import Node

from packqvit_delegate.errors import PlanError
from packqvit_delegate.grids import AffineGrid, Grid, OffsetGrid, ResidualGrid
from packqvit_delegate.ops.arithmetic import INT16_MAX
from packqvit_delegate.requantizer import (
    FRACTION_BITS_INT8,
    Requantizer,
    make_requantizer,
)

from ..codes import skip_codes
from ..graph import aten, shape_of
from ..patterns import embedding_that_ends_at
from ..reasons import describe
from .context import Codes, LoweringContext, NotLowered, lowers, output_codes, require_affine, require_residual
from .join_rules import join_streams

MAX_FEATURES = 16384
MAX_BIAS = 1 << 29
_INPUT_BOUND = 128
_EMPTY_BITS = 14
"""Fraction bits, of the output's step, that the bias of a row of zeros has in the accumulator."""
_MORE = 1.001
"""Steps become this much coarser than a bias needs, so that rounding does not carry it beyond its limit."""

ops = torch.ops.packqvit


class IntegerLinear:
    """Weight codes, accumulator scales and folded bias of a linear layer on affine input codes.

    A row whose weights are zero, or tiny beside its bias, would have a bias of more steps than an accumulator holds:
    its step is made as coarse as that needs, and its codes are rounded anew (docs/numerics.md).

    Attributes:
        weight: int8 [O, K].
        scales: float64 [O], value of one accumulator step.
        bias: int32 [O], with the input's zero point folded in.
        bits: 4 or 8.
        bound: No |accumulator| is larger.
    """

    def __init__(
        self,
        context: LoweringContext,
        weight: object,
        bias: object,
        grid: AffineGrid | OffsetGrid,
        name: str = "a linear layer",
    ) -> None:
        """Reads the constants.

        Args:
            context: Knows them.
            weight: The dequantize node of the weights.
            bias: The constant's node, or None.
            grid: Of the input.
            name: For errors.

        Raises:
            NotLowered: They are not constants, or the layer is too wide.
            PlanError: A bias or a scale is not finite.
        """
        codes, weight_scales, self.bits = context.weight(weight)
        channels = codes.shape[1]
        self._name, self._codes = name, codes.reshape(codes.shape[0], -1)
        features = self._codes.shape[1]
        if features > MAX_FEATURES:
            raise NotLowered(f"it has {features} input features: they would have to be at most {MAX_FEATURES}")
        self._scales = weight_scales * grid.scale
        self._bias = torch.zeros_like(self._scales) if bias is None else context.tensor(bias).double()
        offset = grid.offset / grid.scale if isinstance(grid, OffsetGrid) else torch.tensor(-float(grid.zero_point))
        self._offset = offset.double().expand(channels).repeat_interleave(features // channels)
        self._set(*self._with_bias_below(MAX_BIAS))

    def requantizer(self, out_scales: torch.Tensor, fraction_bits: int) -> Requantizer:
        """Brings accumulators onto an output grid.

        Where a bias far beyond what the weights add up to leaves no room for the shift that the other rows need, its
        row becomes coarser still.

        Args:
            out_scales: float64 [O] or [1], value of one step of the output.
            fraction_bits: F wanted.

        Raises:
            PlanError: The output grid is too fine for the layer.
        """
        # The step of a row without codes is free: one that suits every bias which the output can hold.
        is_empty = ~self._codes.bool().any(-1)
        self._scales = torch.where(is_empty, out_scales * 2.0**-_EMPTY_BITS, self._scales)
        self._set(*self._with_bias_below(MAX_BIAS))
        products = int(self._codes.abs().long().sum(-1).max()) * _INPUT_BOUND
        lowest, largest = (4 * products).bit_length(), int(self.bias.abs().max())
        best, error = None, None
        for bits in range(MAX_BIAS.bit_length() - 1, lowest - 1, -1):
            if 1 << bits < largest or bits == MAX_BIAS.bit_length() - 1:
                rows = self._with_bias_below(1 << bits)
                try:
                    found = make_requantizer(rows[1] / out_scales, _bound(rows[0], rows[2]), fraction_bits)
                except PlanError as refused:
                    error = error or refused
                    continue
                if best is None or found.fraction_bits > best[0].fraction_bits:
                    best = found, rows
                if found.fraction_bits == fraction_bits:
                    break
        if best is None:
            raise PlanError(f"{self._name}: {error}")
        self._set(*best[1])
        return best[0]

    def _set(self, weight: torch.Tensor, scales: torch.Tensor, folded: torch.Tensor) -> None:
        self.weight, self.scales, self.bias = weight, scales, folded.to(torch.int32)
        self.bound = _bound(weight, folded)

    def _with_bias_below(self, limit: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes, accumulator steps and folded biases, the latter at most `limit`; the other rows stay as they are."""
        weight, scales = self._codes, self._scales
        while True:
            folded = torch.round(self._bias / scales + weight.double() @ self._offset)
            if not bool(torch.isfinite(folded).all()):
                raise PlanError(f"{self._name}: its bias, or the scale of its weights or its input, is not finite")
            beyond = folded.abs() / limit
            if float(beyond.max()) <= 1.0:
                return weight, scales, folded
            scales = torch.where(beyond > 1.0, scales * beyond * _MORE, scales)
            ratio = (self._scales / scales).unsqueeze(1)
            weight = torch.where(ratio < 1.0, torch.round(self._codes * ratio), self._codes).to(self._codes.dtype)

    def constants(self, context: LoweringContext, name: str) -> tuple[Node, Node]:
        """get_attr nodes of weight and bias."""
        return context.constant(f"{name}_weight", self.weight), context.constant(f"{name}_bias", self.bias)


def _bound(weight: torch.Tensor, folded: torch.Tensor) -> int:
    """No |accumulator| of these codes and biases is larger."""
    return int((weight.abs().long().sum(-1) * _INPUT_BOUND + folded.abs().long()).max())


def linear_operands(context: LoweringContext, node: Node) -> tuple[Codes, IntegerLinear]:
    """Input codes and constants of an aten.linear node.

    Raises:
        NotLowered: Its input is not on an affine grid, or its weight is not quantised.
    """
    what = f"the input of {describe(node)}"
    x = context.codes_of(node.args[0], what)
    grid = require_affine(x.grid, what)
    return x, IntegerLinear(context, node.args[1], node.args[2] if len(node.args) > 2 else None, grid, describe(node))


@lowers(aten.linear.default)
def lower_linear(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(linear(x)) -> packqvit.linear; a new residual stream may begin at it."""
    scales, zero_point, qmin, qmax = output_codes(grid, shape_of(node)[-1])
    x, layer = linear_operands(context, node)
    requantizer = layer.requantizer(scales, FRACTION_BITS_INT8 if qmax <= 127 else 0)
    weight, bias = layer.constants(context, node.name)
    args = (
        x.node,
        weight,
        bias,
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        layer.bits,
        requantizer.left_shift,
        requantizer.fraction_bits,
        zero_point,
        qmin,
        qmax,
    )
    return Codes(context.call(ops.linear.default, args, node), grid)


def _fit_position(position: torch.Tensor, out: ResidualGrid) -> tuple[ResidualGrid, int]:
    """The output grid and the fraction bits with which every position is an int16 number.

    The patches may bring what is beyond the grid back into it, so that a position must not saturate by itself: an int16
    grid becomes coarser where that is needed, an int8 one gets fewer fraction bits.
    """
    if out.dtype == torch.int16:
        return dataclasses.replace(out, scale=max(out.scale, float(position.abs().max()) / INT16_MAX)), 0
    largest = float((position / out.channel_scales(position.shape[1])).abs().max())
    bits = FRACTION_BITS_INT8
    while bits > 0 and largest * 2.0**bits > INT16_MAX:
        bits -= 1
    if largest * 2.0**bits > INT16_MAX:
        raise NotLowered(
            f"a position is {largest:.3g} steps of the residual stream, which do not fit into 16 bits: the positions "
            "would have to be of the order of the patches"
        )
    return out, bits


@lowers(aten.cat.default, aten.transpose.int, aten.permute.default)
def lower_embedding(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(cat(prefix, add(transpose(reshape(conv2d(image))), position))) -> packqvit.patch_embedding.

    Other concatenations are of streams.
    """
    embedding = embedding_that_ends_at(node)
    if embedding is None:
        return join_streams(context, node, grid)
    out = require_residual(grid)
    convolution = embedding.convolution
    image = context.codes_of(convolution.args[0], "the image")
    if not isinstance(image.grid, (AffineGrid, OffsetGrid)):
        raise NotLowered(
            "what it reads has the codes of the residual stream: it would have to be an image or an activation"
        )
    bias_node = convolution.args[2] if len(convolution.args) > 2 else None
    layer = IntegerLinear(context, convolution.args[1], bias_node, image.grid, describe(convolution))
    kernel = shape_of(skip_codes(convolution.args[1]))[2:]  # type: ignore[arg-type]
    channels = layer.weight.shape[0]
    patches = shape_of(embedding.output)[1]
    real_prefix = None if embedding.prefix is None else context.tensor(embedding.prefix).double()
    if real_prefix is not None:
        if not bool((real_prefix == real_prefix[:1]).all()):
            raise NotLowered("the prefix tokens differ between the images of a batch: they would have to be the same")
        patches -= real_prefix.shape[1]
    real_position = torch.zeros(patches, channels, dtype=torch.float64)
    if embedding.position is not None:
        real_position += context.tensor(embedding.position).double().reshape(-1, channels)
    out, fraction_bits = _fit_position(real_position, out)
    scales = out.channel_scales(channels)
    requantizer = layer.requantizer(scales, fraction_bits)
    position = torch.round(real_position / scales * 2.0**requantizer.fraction_bits).to(torch.int16)
    prefix = torch.zeros(0, channels, dtype=out.dtype)
    if real_prefix is not None:
        limits = torch.iinfo(out.dtype)
        prefix = torch.round(real_prefix[0] / scales).clamp(limits.min, limits.max).to(out.dtype)
    weight, bias = layer.constants(context, "patch_embedding")
    args = (
        image.node,
        weight,
        bias,
        context.constant("patch_embedding_multiplier", requantizer.multiplier),
        context.constant("patch_embedding_shift", requantizer.shift),
        context.constant("patch_embedding_position", position),
        context.constant("patch_embedding_prefix", prefix),
        *kernel,
        layer.bits,
        requantizer.left_shift,
        requantizer.fraction_bits,
    )
    return Codes(context.call(ops.patch_embedding.default, args, convolution), out)
