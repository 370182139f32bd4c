"""Operators that make one token of all: their mean, and the maximum of each channel."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import requantize
from .library import code_dtype, integer_op


def _pool_tokens_meta(
    x: Any,
    bias: Any,
    multiplier: Any,
    shift: Any,
    left_shift: Any,
    fraction_bits: Any,
    zero_point: Any,
    qmin: Any,
    qmax: Any,
) -> torch.Tensor:
    return x.new_empty((x.shape[0], 1, x.shape[2]), dtype=code_dtype(qmin, qmax))


def _codes(pooled: torch.Tensor, bias: torch.Tensor, *grid: Any) -> torch.Tensor:
    """The codes of sums or maxima, int64 [B, 1, C]; grid: arguments of `requantize`, the range last."""
    return requantize(pooled + bias.long(), *grid).to(code_dtype(*grid[-2:]))


@integer_op(
    "mean_tokens(Tensor x, Tensor bias, Tensor multiplier, Tensor shift, int left_shift, int fraction_bits, "
    "int zero_point, int qmin, int qmax) -> Tensor",
    _pool_tokens_meta,
)
def mean_tokens(
    x: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Mean over all tokens; the division by their number lies in the multiplier.

    Args:
        x: int8 or int16 [B, N, C].
        bias: int32 [C], minus N times the input's zero point.
        multiplier: int16 [C].
        shift: uint8 [C].
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for an int16 output.
        zero_point: Of the output.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        [B, 1, C], int8, or int16 when [qmin, qmax] does not fit.
    """
    pooled = x.long().sum(1, keepdim=True)
    return _codes(pooled, bias, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax)


@integer_op(
    "max_tokens(Tensor x, Tensor bias, Tensor multiplier, Tensor shift, int left_shift, int fraction_bits, "
    "int zero_point, int qmin, int qmax) -> Tensor",
    _pool_tokens_meta,
)
def max_tokens(
    x: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Maximum over all tokens, channel by channel: that of the codes, as rounding keeps the order.

    Args:
        x: int8 or int16 [B, N, C].
        bias: int32 [C], minus the input's zero point.
        multiplier: As of mean_tokens, and so are the others.
        shift: uint8 [C].
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for an int16 output.
        zero_point: Of the output.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        [B, 1, C], int8, or int16 when [qmin, qmax] does not fit.
    """
    pooled = x.long().amax(1, keepdim=True)
    return _codes(pooled, bias, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax)
