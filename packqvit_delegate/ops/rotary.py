"""Rotary positions (Su et al., RoFormer, 2021, equation 34) of queries and keys: in float graphs, and in codes."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import requantize, rounding_shift_right
from .library import LIBRARY, code_dtype, integer_op

ROTATION_SHIFT = 16
"""Of the sum of two products of int16: what is left fits into int16 whatever the factors are."""

LIBRARY.define("rotary(Tensor x, Tensor cosine, Tensor sine, int[] partner) -> Tensor")


def rotary(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, partner: list[int]) -> torch.Tensor:
    """Mixes each channel of a head with its partner, by factors that depend on the token.

    Args:
        x: Float [B, N, H, d].
        cosine: Float [N, H or 1, d], of the channel itself.
        sine: Float [N, H or 1, d], of its partner.
        partner: For each of the d channels another one, or itself.

    Returns:
        x * cosine + x[..., partner] * sine, of x's shape.
    """
    return x * cosine + x[..., partner] * sine


LIBRARY.impl("rotary", rotary, "CompositeImplicitAutograd")


def _rotate_meta(
    x: Any,
    cosine: Any,
    sine: Any,
    partner: Any,
    multiplier: Any,
    shift: Any,
    left_shift: Any,
    fraction_bits: Any,
    qmin: Any,
    qmax: Any,
) -> torch.Tensor:
    return torch.empty_like(x, dtype=code_dtype(qmin, qmax))


@integer_op(
    "rotate(Tensor x, Tensor cosine, Tensor sine, int[] partner, Tensor multiplier, Tensor shift, int left_shift, "
    "int fraction_bits, int qmin, int qmax) -> Tensor",
    _rotate_meta,
)
def rotate(
    x: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    partner: list[int],
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Rotary positions in integers.

    Args:
        x: int16 [B, N, H * d].
        cosine: int16 [N, H or 1, d].
        sine: int16 [N, H or 1, d].
        partner: For each of the d channels another one, or itself.
        multiplier: int16 [H * d].
        shift: uint8 [H * d].
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        int8 [B, N, H * d].
    """
    heads = x.long().unflatten(-1, (-1, len(partner)))
    mixed = heads * cosine.long() + heads[..., partner] * sine.long()
    rotated = rounding_shift_right(mixed, ROTATION_SHIFT).flatten(-2)
    codes = requantize(rotated, multiplier, shift, left_shift, fraction_bits, 0, qmin, qmax)
    return codes.to(code_dtype(qmin, qmax))
