"""Additions into the residual stream: of a linear, of a LayerNorm behind one, and of another stream."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from packqvit_delegate.grids import Grid, ResidualGrid
from packqvit_delegate.requantizer import make_requantizer, residual_fraction_bits, residual_multiplier

from ..codes import skip_codes
from ..graph import aten, has_tensor, is_call, is_constant, shape_of
from ..patterns import embedding_that_ends_at
from ..sums import channel_constant
from .context import Codes, LoweringContext, NotLowered, lowers, require_residual
from .join_rules import constant_codes, repeat_tokens
from .linear_rules import linear_operands, lower_embedding
from .norm_rules import norm_operands

ops = torch.ops.packqvit


@lowers(aten.add.Tensor)
def lower_add(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(add(stream, linear(x))) -> packqvit.linear_add, layer_norm_add or, of two streams, requantize_add.

    An embedding without prefix tokens also ends in an add.
    """
    embedding = embedding_that_ends_at(node)
    if embedding is not None:
        return lower_embedding(context, node, grid)
    branch = skip_codes(node.args[1]) if isinstance(node.args[1], Node) else None
    if branch is None or not has_tensor(node.args[0]):
        raise NotLowered
    out, is_alone = require_residual(grid), context.find_codes(branch) is None
    if is_alone and is_call(branch, aten.linear.default):
        return _lower_linear_add(context, node, branch, out)
    if is_alone and is_call(branch, aten.layer_norm.default):
        return _lower_post_norm(context, node, branch, out)
    return _lower_stream_sum(context, node, out)


def _lower_linear_add(context: LoweringContext, node: Node, branch: Node, out: ResidualGrid) -> Codes:
    """quantize(add(stream, linear(x))) -> packqvit.linear_add."""
    x, layer = linear_operands(context, branch)
    stream, out, ratio = _onto(context, node, node.args[0], out, x)
    new_scales = out.channel_scales(len(ratio))
    fraction_bits = residual_fraction_bits(ratio, out.dtype)
    requantizer = layer.requantizer(new_scales, fraction_bits)
    weight, bias = layer.constants(context, branch.name)
    args = (
        x.node,
        weight,
        bias,
        context.constant(f"{branch.name}_multiplier", requantizer.multiplier),
        context.constant(f"{branch.name}_shift", requantizer.shift),
        stream,
        context.constant(
            f"{branch.name}_residual_multiplier", residual_multiplier(ratio, out.dtype, requantizer.fraction_bits)
        ),
        layer.bits,
        requantizer.left_shift,
        requantizer.fraction_bits,
    )
    return Codes(context.call(ops.linear_add.default, args, branch), out)


def _lower_post_norm(context: LoweringContext, node: Node, norm: Node, out: ResidualGrid) -> Codes:
    """quantize(add(stream, layer_norm(x))) -> packqvit.layer_norm_add."""
    x = context.codes_of(norm.args[0], "its input")
    stream, out, ratio = _onto(context, node, node.args[0], out, x)
    fraction_bits = residual_fraction_bits(ratio, out.dtype)
    fine = out.channel_scales(len(ratio)) * 2.0**-fraction_bits
    operands = norm_operands(context, norm, fine, 0)
    multiplier = residual_multiplier(ratio, out.dtype, fraction_bits)
    factors = context.constant(f"{norm.name}_residual_multiplier", multiplier)
    args = (*operands.operands, stream, factors, *operands.numbers, fraction_bits)
    return Codes(context.call(ops.layer_norm_add.default, args, norm), out)


def _lower_stream_sum(context: LoweringContext, node: Node, out: ResidualGrid) -> Codes:
    """quantize(add(stream, stream)) -> packqvit.requantize_add, onto constant tokens or what has finer steps."""
    onto, added = _finer_last(context, node, out)
    x, factor = _skip(context, added)
    stream, out, ratio = _onto(context, node, onto, out, x)
    fraction_bits = residual_fraction_bits(ratio, out.dtype)
    steps = require_residual(x.grid, "what it adds").channel_scales(len(ratio)) * factor
    requantizer = make_requantizer(steps / out.channel_scales(len(ratio)), 1 << 15, fraction_bits)
    multiplier = residual_multiplier(ratio, out.dtype, requantizer.fraction_bits)
    args = (
        x.node,
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        stream,
        context.constant(f"{node.name}_residual_multiplier", multiplier),
        requantizer.left_shift,
        requantizer.fraction_bits,
    )
    return Codes(context.call(ops.requantize_add.default, args, node), out)


def _finer_last(context: LoweringContext, node: Node, out: ResidualGrid) -> tuple[Any, Any]:
    """The operands of a sum of streams: the one onto which the other is added, and that other one.

    Raises:
        NotLowered: One has no codes, or neither has the width of the sum.
    """
    operands: list[Any] = list(node.args)
    constants = [value for value in operands if is_constant(value)]
    if constants:
        return constants[0], operands[0] if operands[1] is constants[0] else operands[1]
    grids = [require_residual(_skip(context, value)[0].grid, "what it adds") for value in operands]
    alike = [index for index, grid in enumerate(grids) if grid.dtype == out.dtype]
    if not alike:
        raise NotLowered(f"it adds streams of another width than {out.dtype}: one of the two would have to have that")
    index = min(alike, key=lambda index: grids[index].scale)
    return operands[index], operands[1 - index]


def _onto(
    context: LoweringContext, node: Node, value: Any, out: ResidualGrid, branch: Codes
) -> tuple[Node, ResidualGrid, torch.Tensor]:
    """The codes of what a branch is added to, the grid of the sum, and the old over the new steps, float64 [C].

    Raises:
        NotLowered: It is no residual stream, or one of another type.
    """
    channels = shape_of(node)[-1]
    if is_constant(value):
        out, codes = constant_codes(context, value, shape_of(node), out)
        repeated = repeat_tokens(context, codes, branch.node, node)
        return repeated, out, torch.ones(channels, dtype=torch.float64)
    stream, factor = _skip(context, value)
    old = require_residual(stream.grid, "what the branch is added to")
    if old.dtype != out.dtype:
        raise NotLowered(
            f"the residual stream changes from {old.dtype} to {out.dtype} here: it would have to have one width all "
            "through"
        )
    coarsest = old.scale * float(factor.max())
    if out.dtype == torch.int16 and out.scale < coarsest:  # an int16 stream only ever becomes coarser
        out = dataclasses.replace(out, scale=coarsest)
    return stream.node, out, old.channel_scales(channels) * factor / out.channel_scales(channels)


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
        raise NotLowered("the residual stream is multiplied by numbers that are not positive: they would have to be")
    return codes, factor
