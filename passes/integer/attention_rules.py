"""Attention: scores and softmax together, then the values."""

from __future__ import annotations

import math

import torch
from torch.fx import Node

from packqvit_delegate.grids import AffineGrid, Grid, ProbabilityGrid
from packqvit_delegate.ops.arithmetic import EXPONENT_FRACTION_BITS, INT16_MAX
from packqvit_delegate.ops.attention import VALUE_FRACTION_BITS
from packqvit_delegate.requantizer import (
    FRACTION_BITS_INT8,
    MAX_LEFT_SHIFT,
    MAX_SHIFT,
    make_requantizer,
    normalized_multiplier,
)

from ..attention import Attention, match_attention
from ..codes import skip_codes
from ..graph import aten, is_call, shape_of
from .context import Codes, LoweringContext, NotLowered, lowers, require_affine

MAX_KEYS = 1031
_MASK_OCTAVES = 64
"""A bias this far below the rest gives probability 0; larger (infinite) ones are cut to it."""

ops = torch.ops.packqvit


def _symmetric(context: LoweringContext, linear: Node, what: str) -> tuple[Codes, AffineGrid]:
    codes = context.codes_of(linear, what)
    grid = require_affine(codes.grid, what)
    if grid.zero_point != 0 or grid.qmin < -127:
        raise NotLowered(f"{what} is not on a symmetric grid")
    return codes, grid


@lowers(aten.softmax.int)
def lower_softmax(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(softmax(scale * q k^T + bias)) -> packqvit.softmax(packqvit.attention_scores(q, k))."""
    attention = match_attention(node)
    if attention is None or not isinstance(grid, ProbabilityGrid):
        raise NotLowered("it is not the softmax of an attention softmax(scale * q k^T + constant) v of linear layers")
    q, q_grid = _symmetric(context, attention.query, "q")
    k, k_grid = _symmetric(context, attention.key, "k")
    keys = shape_of(node)[-1]
    if keys > MAX_KEYS:
        raise NotLowered(f"it attends to {keys} tokens; at most {MAX_KEYS} are supported")
    step = q_grid.scale * k_grid.scale * attention.scale
    if not step > 0:
        raise NotLowered(f"the scale of its scores is {attention.scale}, not positive")
    multiplier, shift = normalized_multiplier(step * math.log2(math.e) * 2**EXPONENT_FRACTION_BITS)
    if not -MAX_LEFT_SHIFT <= shift <= MAX_SHIFT:
        raise NotLowered(
            f"one step of its scores, {step:.3g}, is out of range: scale q and k so that scores are of the order of 1"
        )
    scores = context.call(ops.attention_scores.default, (q.node, k.node, attention.heads), node)
    bias = _bias(context, attention, step)
    probabilities = context.call(ops.softmax.default, (scores, bias, multiplier, shift, grid.log2), node)
    return Codes(probabilities, grid)


def _bias(context: LoweringContext, attention: Attention, step: float) -> Node | None:
    if attention.bias is None:
        return None
    batch, heads, queries, keys = shape_of(attention.softmax)
    bias = context.tensor(attention.bias).double().nan_to_num(neginf=-1e30)
    bias = bias.expand(batch, heads, queries, keys).reshape(-1, queries, keys)
    distinct = next(n for n in (1, heads, batch * heads) if bool((bias == bias[:n].repeat(len(bias) // n, 1, 1)).all()))
    limit = min(_MASK_OCTAVES * math.log(2) / step, 2.0**29)
    codes = torch.round(bias[:distinct] / step).clamp(-limit, limit).to(torch.int32)
    return context.constant("attention_bias", codes)


@lowers(aten.reshape.default)
def lower_attention_values(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(reshape(permute(matmul(p, v)))) -> packqvit.attention_values."""
    out = require_affine(grid)
    permute = node.args[0]
    product = permute.args[0] if is_call(permute, aten.permute.default) else None  # type: ignore[union-attr]
    softmax = skip_codes(product.args[0]) if is_call(product, aten.matmul.default) else None  # type: ignore[union-attr,arg-type]
    attention = match_attention(softmax) if softmax is not None else None
    if attention is None or attention.output is not node:
        raise NotLowered("it is not the output of an attention softmax(scale * q k^T + constant) v of linear layers")
    p = context.codes_of(attention.softmax, "what it multiplies v by")
    v, v_grid = _symmetric(context, attention.value, "v")
    assert isinstance(p.grid, ProbabilityGrid)
    channels = shape_of(node)[-1]
    keys = shape_of(attention.softmax)[-1]
    step = v_grid.scale * (2.0**-14 if p.grid.log2 else 2.0**-VALUE_FRACTION_BITS)
    bound = keys * 127 << 14 if p.grid.log2 else INT16_MAX
    ratio = torch.full((channels,), step / out.scale, dtype=torch.float64)
    requantizer = make_requantizer(ratio, min(bound, (1 << 30) - 1), FRACTION_BITS_INT8)
    args = (
        p.node,
        v.node,
        context.constant(f"{node.name}_multiplier", requantizer.multiplier),
        context.constant(f"{node.name}_shift", requantizer.shift),
        p.grid.log2,
        requantizer.left_shift,
        requantizer.fraction_bits,
        out.zero_point,
        out.qmin,
        out.qmax,
    )
    return Codes(context.call(ops.attention_values.default, args, node), out)
