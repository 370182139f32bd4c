"""Attention on codes: scores, Int-2^n-Softmax, and values weighted by log2 or linear probability codes."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import (
    EXPONENT_FRACTION_BITS,
    INT16_MAX,
    bit_length,
    exp2_negative,
    integer_matmul,
    log2_normalizer,
    multiply_high,
    requantize,
    rounding_shift_right,
)
from .library import code_dtype, integer_op

LOG2_ZERO_CODE = 15
"""The log2 code that stands for probability 0."""

LARGEST_LINEAR_CODE = 255
"""The linear code of a row's largest probability."""

VALUE_FRACTION_BITS = 8
"""Fraction bits of a weighted mean of values, where linear codes weigh them."""

MASK = 1 << 29
"""What a score is lowered by where its query and its key are in different groups: beyond all scores."""

_LARGEST_EXPONENT = 6
"""Octaves, with 10 fraction bits, from 256 down to 255: the exponent of a row's largest linear code."""


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, N, H * d] as [B, H, N, d]."""
    batch, tokens, channels = x.shape
    return x.reshape(batch, tokens, heads, channels // heads).transpose(1, 2)


def _attention_scores_meta(q: Any, k: Any, heads: Any) -> torch.Tensor:
    return k.new_empty((k.shape[0], heads, q.shape[1], k.shape[1]), dtype=torch.int32)


@integer_op("attention_scores(Tensor q, Tensor k, int heads) -> Tensor", _attention_scores_meta)
def attention_scores(q: torch.Tensor, k: torch.Tensor, heads: int) -> torch.Tensor:
    """Accumulators of Q K^T.

    Args:
        q: int8 [B, Nq, D], symmetric; or [1, Nq, D], queries of all images.
        k: int8 [B, Nk, D], symmetric.
        heads: H; divides D.

    Returns:
        int32 [B, H, Nq, Nk].
    """
    scores = integer_matmul(split_heads(q, heads), split_heads(k, heads).transpose(-2, -1), 128 * 128)
    return scores.to(torch.int32)


def _softmax_meta(x: Any, bias: Any, multiplier: Any, shift: Any, log2: Any, groups: Any = None) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


def _biased(x: torch.Tensor, bias: torch.Tensor | None, groups: torch.Tensor | None) -> torch.Tensor:
    """Scores with the bias of their head, or the mask between the groups of their window; int64."""
    scores = x.long()
    batch, heads = x.shape[:2]
    added = torch.zeros((), dtype=torch.int64, device=x.device)
    if bias is not None:
        added = bias.long().repeat(batch * heads // bias.shape[0], 1, 1).reshape(scores.shape)
    if groups is not None:
        together = groups.unsqueeze(2) == groups.unsqueeze(1)
        together = together.repeat(batch // groups.shape[0], 1, 1).unsqueeze(1)
        added = torch.where(together, added, -MASK)
    return scores + added


@integer_op(
    "softmax(Tensor x, Tensor? bias, int multiplier, int shift, bool log2, Tensor? groups=None) -> Tensor",
    _softmax_meta,
)
def softmax(
    x: torch.Tensor,
    bias: torch.Tensor | None,
    multiplier: int,
    shift: int,
    log2: bool,
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Int-2^n-Softmax over the last axis (PackQViT, NeurIPS 2023; docs/numerics.md, softmax).

    Args:
        x: int32 [B, H, Nq, Nk], accumulators of Q K^T, below 2^30 in magnitude together with the bias.
        bias: int32 [Hb, Nq, Nk] added first, in accumulator steps; Hb divides B * H. None for plain attention.
        multiplier: In [2^14, 2^15 - 1]; with shift, 1024 * log2(e) * (step of x).
        shift: In [-15, 30].
        log2: Log2 codes (p = 2^-code, 15 = zero) or linear ones (p = code over the sum of the row's codes, of which the
            largest is 255).
        groups: uint8 [W, N], W a divisor of B, N = Nq = Nk: in window b, a query sees the keys that have its number in
            row b mod W; the others are masked, whatever their bias. None: every query sees every key.

    Returns:
        uint8 [B, H, Nq, Nk].
    """
    scores = _biased(x, bias, groups)
    distance = scores.amax(-1, keepdim=True) - scores
    if shift >= 0:
        t = rounding_shift_right(distance, shift).clamp_max(INT16_MAX)
    else:
        t = (distance << -shift).clamp_max(INT16_MAX)
    exponent = multiply_high(t, multiplier)
    if log2:
        p, octaves = exp2_negative(exponent)
        weight = torch.where(octaves <= 15, rounding_shift_right(p, octaves), torch.zeros_like(p))
        exponent = exponent + log2_normalizer(weight.sum(-1, keepdim=True))
        half = 1 << (EXPONENT_FRACTION_BITS - 1)
        return ((exponent + half) >> EXPONENT_FRACTION_BITS).clamp_max(LOG2_ZERO_CODE).to(torch.uint8)
    p, octaves = exp2_negative((exponent + _LARGEST_EXPONENT).clamp_max(INT16_MAX))
    drop = octaves + 6  # 2^14 is code 256
    return torch.where(drop <= 15, rounding_shift_right(p, drop), torch.zeros_like(p)).to(torch.uint8)


def _divide_by_sum(accumulator: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """2^8 * accumulator / total, rounded twice, within 16 bits; int64 [..., D] and [..., 1], 0 <= total < 2^23."""
    total = total.clamp_min(1)
    bits = bit_length(total)
    reciprocal = ((torch.ones_like(total) << (bits + 14)) + (total >> 1)) // total
    scaled = rounding_shift_right(accumulator, (bits - VALUE_FRACTION_BITS).clamp_min(0))
    return rounding_shift_right(scaled * reciprocal.clamp_max(INT16_MAX), 14)


def _attention_values_meta(
    p: Any,
    v: Any,
    multiplier: Any,
    shift: Any,
    log2: Any,
    left_shift: Any,
    fraction_bits: Any,
    zero_point: Any,
    qmin: Any,
    qmax: Any,
) -> torch.Tensor:
    return v.new_empty((v.shape[0], p.shape[2], v.shape[2]), dtype=code_dtype(qmin, qmax))


@integer_op(
    "attention_values(Tensor p, Tensor v, Tensor multiplier, Tensor shift, bool log2, int left_shift, "
    "int fraction_bits, int zero_point, int qmin, int qmax) -> Tensor",
    _attention_values_meta,
)
def attention_values(
    p: torch.Tensor,
    v: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    log2: bool,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """P V with the heads joined again.

    Log2 codes weigh by shifts, exact until one final rounding. Linear codes are divided by their sum behind the
    product, once for each query: rows add up to 1 however coarse the codes are (docs/numerics.md, attention_values).

    Args:
        p: uint8 [B, H, Nq, Nk], probability codes.
        v: int8 [B, Nk, D], symmetric, in [-127, 127].
        multiplier: int16 [D].
        shift: uint8 [D].
        log2: What p's codes mean, as in softmax.
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation.
        zero_point: Of the output.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        int8 [B, Nq, D].
    """
    codes = p.long()
    if log2:
        weight = torch.where(codes < LOG2_ZERO_CODE, 1 << (14 - codes).clamp_min(0), torch.zeros_like(codes))
        bound = (1 << 14) * 128
    else:
        weight, bound = codes, 255 * 128
    accumulator = integer_matmul(weight, split_heads(v, p.shape[1]), bound)
    if not log2:
        accumulator = _divide_by_sum(accumulator, codes.sum(-1, keepdim=True))
    accumulator = accumulator.transpose(1, 2).reshape(v.shape[0], p.shape[2], v.shape[2])
    result = requantize(accumulator, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax)
    return result.to(code_dtype(qmin, qmax))
