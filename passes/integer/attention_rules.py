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
from ..head_norm import HeadNorm, Rotary
from .context import Codes, LoweringContext, NotLowered, lowers, require_affine
from .masks import split_mask
from .relative_positions import relative_positions
from .rotary_rules import rows_of_heads

MAX_KEYS = {True: 1 << 14, False: 1 << 15}
"""Of log2 codes, where a query that sees all keys alike has code 14 for each, and of linear ones, whose sums have room
for no more (docs/numerics.md, "Why nothing overflows")."""
_MAX_BIAS = 1 << 29
_CLOSE = 16.0
"""Rows whose largest biases differ by less share one: that takes four bits at most."""
_INVISIBLE = 2.0**-8
"""Half of it changes a probability by 0.2 %: less than the codes of probabilities show."""
_ZERO_OCTAVES = 16
"""A score this far below its row's largest has probability 0."""

ops = torch.ops.packqvit


def _symmetric(
    context: LoweringContext, linear: Node, what: str, *changes: HeadNorm | Rotary | None
) -> tuple[Codes, AffineGrid]:
    """Codes [B, N, H * d] of q, k or v: of the last of a norm and rotary positions behind their linear, or its own."""
    last = next((change.value for change in reversed(changes) if change is not None), linear)
    codes = context.codes_of(last, what)
    grid = require_affine(codes.grid, what)
    if grid.zero_point != 0 or grid.qmin < -127:
        raise NotLowered(f"{what} is not on a symmetric grid: its zero point would have to be 0")
    return Codes(codes.node if last is linear else rows_of_heads(context, codes.node, linear), grid), grid


def _queries(context: LoweringContext, attention: Attention) -> tuple[Codes, AffineGrid]:
    """Codes of q, [B, Nq, H * d]; [1, Nq, H * d] where they are a constant."""
    if not attention.has_constant_query:
        return _symmetric(context, attention.query, "q", attention.query_norm, attention.query_rotary)
    codes, grid = context.shared_codes(attention.query)
    rows = codes.permute(0, 2, 1, 3).flatten(2).contiguous()
    return Codes(context.constant(f"{attention.softmax.name}_query", rows), grid), grid


@lowers(aten.softmax.int)
def lower_softmax(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(softmax(scale * q k^T + bias)) -> packqvit.softmax(packqvit.attention_scores(q, k)).

    With relative positions, packqvit.add_relative_bias is between them.
    """
    attention = match_attention(node)
    if attention is None or not isinstance(grid, ProbabilityGrid):
        raise NotLowered
    q, q_grid = _queries(context, attention)
    k, k_grid = _symmetric(context, attention.key, "k", attention.key_norm, attention.key_rotary)
    keys = shape_of(node)[-1]
    if keys > MAX_KEYS[grid.log2]:
        raise NotLowered(f"it attends to {keys} tokens: they would have to be at most {MAX_KEYS[grid.log2]}")
    step = q_grid.scale * k_grid.scale * attention.scale
    if not step > 0:
        raise NotLowered(f"the scale of its scores is {attention.scale}: it would have to be positive")
    multiplier, shift = normalized_multiplier(step * math.log2(math.e) * 2**EXPONENT_FRACTION_BITS)
    if not -MAX_LEFT_SHIFT <= shift <= MAX_SHIFT:
        raise NotLowered(
            f"one step of its scores, {step:.3g}, is out of range: q and k would have to be scaled so that scores are "
            "of the order of 1"
        )
    relative = relative_positions(context, attention, k_grid.scale * attention.scale)
    bias, groups = _bias(context, attention, step, 0.0 if relative is None else 2 * relative.reach)
    scores = context.call(ops.attention_scores.default, (q.node, k.node, attention.heads), node)
    if relative is not None:
        scores = context.call(ops.add_relative_bias.default, (scores, q.node, *relative.arguments), node)
    probabilities = context.call(ops.softmax.default, (scores, bias, multiplier, shift, grid.log2, groups), node)
    return Codes(probabilities, grid)


def _bias(context: LoweringContext, attention: Attention, step: float, reach: float) -> tuple[Node | None, Node | None]:
    """What is added to the scores, int32 [Hb, Nq, Nk], and the groups of tokens that see each other, uint8 [W, N].

    Args:
        context: Makes the constants.
        attention: Any.
        step: Of the scores.
        reach: Of the relative positions, in such steps.

    Raises:
        NotLowered: Scores are too coarse for a mask.
    """
    if attention.bias is None:
        return None, None
    batch, heads, queries, keys = shape_of(attention.softmax)
    real = context.tensor(attention.bias).double().nan_to_num(neginf=-1e30)
    real, groups = real.expand(batch, heads, queries, keys), None
    if attention.relative is None:
        real, groups = split_mask(real)
    bias = real.expand(batch, heads, queries, keys).reshape(-1, queries, keys)
    distinct = next(n for n in (1, heads, batch * heads) if bool((bias == bias[:n].repeat(len(bias) // n, 1, 1)).all()))
    bias = bias[:distinct]
    # A softmax does not see what is the same for all of a row; scores may make up for all but the largest differences.
    largest, of_head = bias.amax(-1, keepdim=True), bias.amax((-2, -1), keepdim=True)
    if float((of_head - largest).max()) < _CLOSE:  # what belongs to a relative position has one code in all rows
        largest = of_head
    codes = torch.round((bias - largest) / step)
    scores = 2 * 127 * 127 * shape_of(attention.key)[-1] // heads
    is_masked = groups is not None or float(codes.min()) < -_MAX_BIAS
    if is_masked and (_MAX_BIAS - scores - 2 * reach) * step < _ZERO_OCTAVES * math.log(2):
        raise NotLowered(
            f"its mask or bias reaches too far below 0 for scores that are multiples of {step:.3g}: scores or it "
            "would have to be scaled"
        )
    codes = _for_16_bits(codes.clamp_min(-_MAX_BIAS), step).to(torch.int32)
    return (
        context.constant("attention_bias", codes) if bool(codes.any()) else None,
        None if groups is None else context.constant("attention_groups", groups),
    )


def _for_16_bits(codes: torch.Tensor, step: float) -> torch.Tensor:
    """Codes <= 0 that a plan can keep in 16 bits, times a power of two, where that changes no score visibly."""
    unit = 2.0 ** max(0, (-int(codes.min()) - 1).bit_length() - 15)
    return codes if unit * step > _INVISIBLE else (codes / unit).round().clamp_min(-(1 << 15)) * unit


@lowers(aten.reshape.default)
def lower_attention_values(context: LoweringContext, node: Node, grid: Grid) -> Codes:
    """quantize(reshape(permute(matmul(p, v)))) -> packqvit.attention_values."""
    permute = node.args[0]
    product = permute.args[0] if is_call(permute, aten.permute.default) else None  # type: ignore[union-attr]
    softmax = skip_codes(product.args[0]) if is_call(product, aten.matmul.default) else None  # type: ignore[union-attr,arg-type]
    attention = match_attention(softmax) if softmax is not None else None
    if attention is None or attention.output is not node:
        raise NotLowered
    out = require_affine(grid)
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
    values = context.call(ops.attention_values.default, args, node)
    batch, _, queries, _ = shape_of(attention.softmax)
    if shape_of(node) != (batch, queries, channels):
        values = context.call(aten.reshape.default, (values, list(shape_of(node))), node)
    return Codes(values, out)
