"""The scalar arithmetic of docs/numerics.md, vectorised: every operator's reference is built from these functions.

All of them take and return int64 tensors that hold the narrow values, so that no intermediate of the reference itself
can overflow; the bounds of docs/numerics.md say that none of the narrow implementations does either.
"""

from __future__ import annotations

import torch

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -32768, 32767

EXP2_COEFFICIENTS = (16384, -11327, 3772, -637)
"""2^-f for f in [0, 1) with 15 fraction bits, result with 14: relative error below 1.9e-4."""

LOG2_COEFFICIENTS = (14370, -22220, 10605, -2762)
"""(log2(1 + g) - g) / g for g in [0, 1), 15 fraction bits: log2 within 2.4e-4 octaves."""

EXPONENT_FRACTION_BITS = 10
"""Fraction bits of an exponent inside softmax: 1024 steps an octave."""


def rounding_shift_right(x: torch.Tensor, shift: torch.Tensor | int) -> torch.Tensor:
    """`rshr`: x / 2^shift, ties towards plus infinity; shift >= 0."""
    half = (1 << shift) >> 1 if isinstance(shift, int) else (torch.ones_like(shift) << shift) >> 1
    return (x + half).bitwise_right_shift_(shift)


def multiply_high(a: torch.Tensor, b: torch.Tensor | int) -> torch.Tensor:
    """`mulhrs`: the rounded product over 2^15."""
    return (a * b).add_(1 << 14).bitwise_right_shift_(15)


def saturate(x: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Clamps to [low, high]."""
    return x.clamp(low, high)


def saturate16(x: torch.Tensor) -> torch.Tensor:
    """Clamps to the range of int16."""
    return x.clamp(INT16_MIN, INT16_MAX)


def scale_accumulator(
    accumulator: torch.Tensor, multiplier: torch.Tensor, shift: torch.Tensor, left_shift: int
) -> torch.Tensor:
    """`v` of the requantisation: int32 accumulators [..., C] to output steps with fraction bits, within int32."""
    return multiply_high(rounding_shift_right(accumulator << left_shift, shift.long()), multiplier.long())


def round_steps(steps: torch.Tensor, fraction_bits: int, low: int, high: int) -> torch.Tensor:
    """Output steps with fraction bits to codes in [low, high]: the one place where a requantisation saturates."""
    return rounding_shift_right(steps, fraction_bits).clamp(low, high)


def requantize(
    accumulator: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """`requantize`: int32 accumulators [..., C] onto an affine grid; returns int64 codes in [qmin, qmax]."""
    v = scale_accumulator(accumulator, multiplier, shift, left_shift)
    return round_steps(v + (zero_point << fraction_bits), fraction_bits, qmin, qmax)


def bit_length(x: torch.Tensor) -> torch.Tensor:
    """Number of bits of x, for 1 <= x < 2^62 (int64)."""
    length = torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        big = x >= (1 << step)
        length = torch.where(big, length + step, length)
        x = torch.where(big, x >> step, x)
    return length + 1


def integer_sqrt(x: torch.Tensor) -> torch.Tensor:
    """floor(sqrt(x)), exact, for 0 <= x < 2^62 (int64)."""
    root = x.double().sqrt().long()  # within one of the exact root: a double holds 53 bits
    root = torch.where(root * root > x, root - 1, root)
    return torch.where((root + 1) * (root + 1) <= x, root + 1, root)


def exp2_negative(exponent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """2^-(exponent / 1024) as `p >> n`.

    Returns:
        p in (8192, 16384], 14 fraction bits, and the whole octaves n.
    """
    octaves = exponent >> EXPONENT_FRACTION_BITS
    fraction = (exponent & ((1 << EXPONENT_FRACTION_BITS) - 1)) << (15 - EXPONENT_FRACTION_BITS)
    c0, c1, c2, c3 = EXP2_COEFFICIENTS
    p = c2 + multiply_high(fraction, c3)
    p = c1 + multiply_high(fraction, p)
    return c0 + multiply_high(fraction, p), octaves


def log2_normalizer(total: torch.Tensor) -> torch.Tensor:
    """log2(total / 2^14) with 10 fraction bits, for 2^14 <= total < 2^31."""
    z = bit_length(total) - 1
    g = ((total << (30 - z)) - (1 << 30)) >> 15
    c1, c2, c3, c4 = LOG2_COEFFICIENTS
    p = c3 + multiply_high(g, c4)
    p = c2 + multiply_high(g, p)
    p = c1 + multiply_high(g, p)
    fraction = g + multiply_high(g, p)
    return ((z - 14) << EXPONENT_FRACTION_BITS) + rounding_shift_right(fraction, 15 - EXPONENT_FRACTION_BITS)


def integer_matmul(a: torch.Tensor, b: torch.Tensor, product_bound: int) -> torch.Tensor:
    """Exact product of integer matrices through the floating-point BLAS.

    Args:
        a: Integer tensor [..., M, K].
        b: Integer tensor [..., K, N].
        product_bound: No |a * b| is larger.

    Returns:
        int64 [..., M, N]. float32 is used when every partial sum fits its 24 bits, else float64 (53 bits).
    """
    exact_in_float = a.shape[-1] * product_bound <= 1 << 24
    dtype = torch.float32 if exact_in_float else torch.float64
    return torch.matmul(a.to(dtype), b.to(dtype)).long()
