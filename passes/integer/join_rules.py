"""Constant tokens as a residual stream, and tokens of several streams one behind the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch.fx import Node

from packqvit_delegate.grids import Grid, ResidualGrid
from packqvit_delegate.requantizer import FRACTION_BITS_INT8, make_requantizer

from ..graph import arguments, aten, is_call, is_constant, shape_of
from .context import Codes, LoweringContext, NotLowered, require_residual

ops = torch.ops.packqvit


def constant_codes(
    context: LoweringContext, value: Any, shape: tuple[int, ...], out: ResidualGrid
) -> tuple[ResidualGrid, torch.Tensor]:
    """A grid of constant tokens and of what they meet, and the codes of these tokens, [1, ..., C].

    What is added may bring back what is beyond the grid of a sum, so that this becomes coarser where tokens need it.

    Args:
        context: Knows the constant.
        value: Its node.
        shape: That the tokens are wanted in.
        out: The grid of what they are part of.

    Raises:
        NotLowered: They differ between the images of a batch.
    """
    real = context.tensor(value).double()
    real = real.reshape([1] * (len(shape) - real.dim()) + list(real.shape))
    if not bool((real == real[:1]).all()):
        raise NotLowered("its constant tokens differ between the images of a batch: they would have to be the same")
    real = real[:1].expand(1, *shape[1:])
    largest = float((real / out.channel_scales(real.shape[-1])).abs().max()) / torch.iinfo(out.dtype).max
    out = dataclasses.replace(out, scale=out.scale * max(largest, 1.0))
    return out, torch.round(real / out.channel_scales(real.shape[-1])).to(out.dtype)


def repeat_tokens(context: LoweringContext, codes: torch.Tensor, like: Node, node: Node) -> Node:
    """Constant tokens [1, ..., C] for as many images as there are in `like`."""
    stored = context.constant(f"{node.name}_tokens", codes)
    return context.call(ops.repeat_tokens.default, (stored, like), node)


def join_streams(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(cat([stream, tokens, ...], 1)) -> packqvit.join_tokens of codes on one grid.

    Raises:
        NotLowered: An operand has no codes of a stream, or it is no concatenation of tokens.
    """
    given = arguments(node) if is_call(node, aten.cat.default) else {}
    if not given or given["dim"] not in (1, -2) or len(shape_of(node)) != 3:
        raise NotLowered
    out = require_residual(grid)
    streams = {value: context.codes_of(value, "what it joins") for value in given["tensors"] if not is_constant(value)}
    if not streams:
        raise NotLowered
    constants = {value: context.tensor(value) for value in given["tensors"] if is_constant(value)}
    for value in constants:
        out, _ = constant_codes(context, value, shape_of(value), out)
    like = next(iter(streams.values())).node
    joined: Node | None = None
    for value in given["tensors"]:
        if value in constants:
            part = repeat_tokens(context, constant_codes(context, value, shape_of(value), out)[1], like, node)
        else:
            part = _onto_grid(context, streams[value], out, node)
        joined = part if joined is None else context.call(ops.join_tokens.default, (joined, part), node)
    assert joined is not None
    return Codes(joined, out)


def _onto_grid(context: LoweringContext, stream: Codes, out: ResidualGrid, node: Node) -> Node:
    """The codes of a stream on another grid."""
    channels = shape_of(node)[-1]
    old = require_residual(stream.grid, "what it joins")
    steps = old.channel_scales(channels) / out.channel_scales(channels)
    if old.dtype == out.dtype and bool((steps == 1).all()):
        return stream.node
    limits = torch.iinfo(out.dtype)
    requantizer = make_requantizer(steps, 1 << 15, FRACTION_BITS_INT8 if out.dtype == torch.int8 else 0)
    args = (
        stream.node,
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        requantizer.left_shift,
        requantizer.fraction_bits,
        0,
        limits.min,
        limits.max,
    )
    return context.call(ops.requantize.default, args, node)
