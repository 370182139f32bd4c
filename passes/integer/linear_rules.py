"""Linear layers, with and without the residual addition, and the patch embedding."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from packqvit_delegate.errors import PlanError
from packqvit_delegate.grids import AffineGrid, Grid, OffsetGrid
from packqvit_delegate.requantizer import (
    FRACTION_BITS_INT8,
    make_requantizer,
    residual_fraction_bits,
    residual_multiplier,
)

from ..codes import skip_codes
from ..graph import aten, is_call, shape_of
from ..patterns import Embedding, match_embedding
from ..sums import channel_constant
from .context import Codes, LoweringContext, NotLowered, lowers, require_affine, require_residual

MAX_FEATURES = 4096
MAX_BIAS = 1 << 29
_INPUT_BOUND = 128

ops = torch.ops.packqvit


class IntegerLinear:
    """Weight codes, accumulator scales and folded bias of a linear layer on affine input codes.

    Attributes:
        weight: int8 [O, K].
        scales: float64 [O], value of one accumulator step.
        bias: int32 [O], with the input's zero point folded in.
        bits: 4 or 8.
        bound: No |accumulator| is larger.
    """

    def __init__(self, context: LoweringContext, weight: object, bias: object, grid: AffineGrid | OffsetGrid) -> None:
        """Reads the constants.

        Raises:
            NotLowered: They are not constants, or the layer is too wide.
        """
        codes, weight_scales, self.bits = context.weight(weight)
        channels = codes.shape[1]
        self.weight = codes.reshape(codes.shape[0], -1)
        if self.weight.shape[1] > MAX_FEATURES:
            raise NotLowered(f"it has {self.weight.shape[1]} input features; at most {MAX_FEATURES} are supported")
        self.scales = weight_scales * grid.scale
        real_bias = torch.zeros_like(self.scales) if bias is None else context.tensor(bias).double()
        if isinstance(grid, OffsetGrid):
            offset = grid.offset.expand(channels) / grid.scale
            per_channel = codes.reshape(codes.shape[0], channels, -1).double().sum(-1)
            correction = (per_channel * offset).sum(-1)
        else:
            correction = -grid.zero_point * self.weight.double().sum(-1)
        folded = torch.round(real_bias / self.scales + correction)
        if not bool(torch.isfinite(folded).all()) or float(folded.abs().max()) > MAX_BIAS:
            raise PlanError(
                "a bias does not fit into the accumulator: a weight row is (nearly) zero beside its bias, or not finite"
            )
        self.bias = folded.to(torch.int32)
        magnitudes = self.weight.abs().long().sum(-1) * _INPUT_BOUND + folded.abs().long()
        self.bound = int(magnitudes.max())

    def constants(self, context: LoweringContext, name: str) -> tuple[Node, Node]:
        """get_attr nodes of weight and bias."""
        return context.constant(f"{name}_weight", self.weight), context.constant(f"{name}_bias", self.bias)


def linear_operands(context: LoweringContext, node: Node) -> tuple[Codes, IntegerLinear]:
    """Input codes and constants of an aten.linear node.

    Raises:
        NotLowered: Its input is not on an affine grid, or its weight is not quantised.
    """
    x = context.codes_of(node.args[0], "its input")
    grid = require_affine(x.grid)
    return x, IntegerLinear(context, node.args[1], node.args[2] if len(node.args) > 2 else None, grid)


@lowers(aten.linear.default)
def lower_linear(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(linear(x)) -> packqvit.linear."""
    out = require_affine(grid)
    x, layer = linear_operands(context, node)
    requantizer = make_requantizer(layer.scales / out.scale, layer.bound, FRACTION_BITS_INT8)
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
        out.zero_point,
        out.qmin,
        out.qmax,
    )
    return Codes(context.call(ops.linear.default, args, node), out)


@lowers(aten.add.Tensor)
def lower_add(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(add(stream, linear(x))) -> packqvit.linear_add.

    An embedding without prefix tokens also ends in an add.
    """
    embedding = _embedding_that_ends_at(node)
    if embedding is not None:
        return lower_embedding(context, node, grid)
    out = require_residual(grid)
    branch = skip_codes(node.args[1]) if isinstance(node.args[1], Node) else None
    if not is_call(branch, aten.linear.default):
        raise NotLowered("only a linear layer's output can be added into the residual stream")
    assert branch is not None
    stream, factor = _skip(context, node.args[0])
    old = require_residual(stream.grid)
    if old.dtype != out.dtype:
        raise NotLowered("the residual stream changes its type here")
    coarsest = old.scale * float(factor.max())
    if out.dtype == torch.int16 and out.scale < coarsest:  # an int16 stream only ever becomes coarser
        out = dataclasses.replace(out, scale=coarsest)
    x, layer = linear_operands(context, branch)
    channels = layer.weight.shape[0]
    new_scales = out.channel_scales(channels)
    ratio = old.channel_scales(channels) * factor / new_scales
    fraction_bits = residual_fraction_bits(ratio, out.dtype)
    requantizer = make_requantizer(layer.scales / new_scales, layer.bound, fraction_bits)
    weight, bias = layer.constants(context, branch.name)
    args = (
        x.node,
        weight,
        bias,
        context.constant(f"{branch.name}_multiplier", requantizer.multiplier),
        context.constant(f"{branch.name}_shift", requantizer.shift),
        stream.node,
        context.constant(
            f"{branch.name}_residual_multiplier", residual_multiplier(ratio, out.dtype, requantizer.fraction_bits)
        ),
        layer.bits,
        requantizer.left_shift,
        requantizer.fraction_bits,
    )
    return Codes(context.call(ops.linear_add.default, args, branch), out)


def _skip(context: LoweringContext, value: Any) -> tuple[Codes, torch.Tensor]:
    """The codes of the residual stream, and what it is multiplied with before a branch is added: float64 [] or [C].

    Raises:
        NotLowered: It has no codes, or changes its sign.
    """
    source, factor = value, torch.ones((), dtype=torch.float64)
    if is_call(value, aten.mul.Tensor) and context.find_codes(value) is None:
        number = channel_constant(context.graph_module, value.args[1], shape_of(value)[-1])
        if number is not None:
            source, factor = value.args[0], number
    codes = context.codes_of(source, "the residual stream")
    if bool((factor < 0).any()) or not bool(factor.any()):
        raise NotLowered("the residual stream is multiplied by a number that is not positive")
    return codes, factor


def _embedding_that_ends_at(node: Node) -> Embedding | None:
    """The embedding whose output a node is, or None."""
    current: Any = node
    for _ in range(5):
        if is_call(current, aten.conv2d.default):
            embedding = match_embedding(current)
            return embedding if embedding is not None and embedding.output is node else None
        if is_call(current, aten.cat.default):
            current = current.args[0][-1]
        elif isinstance(current, Node) and current.op == "call_function" and current.args:
            current = current.args[0]
        else:
            return None
    return None


@lowers(aten.cat.default, aten.transpose.int, aten.permute.default)
def lower_embedding(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(cat(prefix, add(transpose(reshape(conv2d(image))), position))) -> packqvit.patch_embedding."""
    embedding = _embedding_that_ends_at(node)
    if embedding is None:
        raise NotLowered("it is not part of a patch embedding")
    out = require_residual(grid)
    convolution = embedding.convolution
    image = context.codes_of(convolution.args[0], "the image")
    if not isinstance(image.grid, (AffineGrid, OffsetGrid)):
        raise NotLowered("the image's codes are not on an affine grid")
    bias_node = convolution.args[2] if len(convolution.args) > 2 else None
    layer = IntegerLinear(context, convolution.args[1], bias_node, image.grid)
    kernel = shape_of(skip_codes(convolution.args[1]))[2:]  # type: ignore[arg-type]
    channels = layer.weight.shape[0]
    scales = out.channel_scales(channels)
    fraction_bits = FRACTION_BITS_INT8 if out.dtype == torch.int8 else 0
    requantizer = make_requantizer(layer.scales / scales, layer.bound, fraction_bits)
    patches = shape_of(embedding.output)[1]
    prefix = torch.zeros(0, channels, dtype=out.dtype)
    limits = torch.iinfo(out.dtype)
    if embedding.prefix is not None:
        real = context.tensor(embedding.prefix)
        if not bool((real == real[:1]).all()):
            raise NotLowered("the prefix tokens differ between the images of a batch")
        prefix = torch.round(real[0].double() / scales).clamp(limits.min, limits.max).to(out.dtype)
        patches -= prefix.shape[0]
    position = torch.zeros(patches, channels, dtype=torch.int16)
    if embedding.position is not None:
        real = context.tensor(embedding.position).reshape(-1, channels).expand(patches, channels)
        steps = torch.round(real.double() / scales * 2.0**requantizer.fraction_bits)
        position = steps.clamp(-32768, 32767).to(torch.int16)
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
