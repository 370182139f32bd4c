"""Turns real scales into the integers of docs/numerics.md."""

from __future__ import annotations

import dataclasses
import math

import torch

from .errors import PlanError
from .ops.arithmetic import INT16_MAX
from .ops.residual import UNIT_RESIDUAL

MAX_SHIFT = 30
MAX_LEFT_SHIFT = 15
FRACTION_BITS_INT8 = 6
ACCUMULATOR_BITS = 30
_UNIT = 1 << 15


@dataclasses.dataclass(frozen=True)
class Requantizer:
    """Integers that bring an accumulator onto another grid (docs/numerics.md, requantise).

    Attributes:
        multiplier: int16 [C], 0 or in [2^14, 2^15 - 1].
        shift: uint8 [C], in 0..30.
        left_shift: l.
        fraction_bits: F.
    """

    multiplier: torch.Tensor
    shift: torch.Tensor
    left_shift: int
    fraction_bits: int


def normalized_multiplier(ratio: float) -> tuple[int, int]:
    """Ratio ~ multiplier * 2^-(15 + shift), multiplier in [2^14, 2^15 - 1]; shift may be negative; ratio > 0."""
    mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2^exponent, mantissa in [0.5, 1)
    multiplier = round(mantissa * 2**15)
    if multiplier == 1 << 15:
        multiplier, exponent = 1 << 14, exponent + 1
    return multiplier, -exponent


def make_requantizer(ratio: torch.Tensor, bound: int, fraction_bits: int) -> Requantizer:
    """The requantiser for accumulators of a given step.

    Args:
        ratio: float64 [C] > 0, accumulator step over output step.
        bound: No |accumulator| is larger.
        fraction_bits: F wanted; lowered where accumulators and ratio leave no room for it.

    Raises:
        PlanError: The ratio is not a positive finite number, or too large even without fraction bits.
    """
    if not bool((torch.isfinite(ratio) & (ratio > 0)).all()):
        raise PlanError("a requantisation ratio is not a positive finite number; check scales and weights for NaN")
    room = ACCUMULATOR_BITS - max(1, bound).bit_length()
    for bits in range(fraction_bits, -1, -1):
        largest = float(ratio.max()) * 2**bits
        left_shift = max(0, -normalized_multiplier(largest)[1])
        if left_shift <= min(room, MAX_LEFT_SHIFT):
            return _requantizer(ratio * 2.0 ** (bits - left_shift), left_shift, bits)
    raise PlanError(
        f"accumulators up to {bound} cannot be scaled by {float(ratio.max()):.3g} in 32 bits: the output grid is too "
        "fine for its inputs; use 8-bit activations or an int8 residual there"
    )


def _requantizer(ratio: torch.Tensor, left_shift: int, fraction_bits: int) -> Requantizer:
    multipliers, shifts = [], []
    for value in ratio.tolist():
        multiplier, shift = normalized_multiplier(value)
        if shift > MAX_SHIFT:
            multiplier, shift = 0, 0
        elif shift < 0:  # rounding carried 0.99999 to 1
            multiplier, shift = INT16_MAX, 0
        multipliers.append(multiplier)
        shifts.append(shift)
    return Requantizer(
        torch.tensor(multipliers, dtype=torch.int16), torch.tensor(shifts, dtype=torch.uint8), left_shift, fraction_bits
    )


def residual_multiplier(ratio: torch.Tensor, dtype: torch.dtype, fraction_bits: int) -> torch.Tensor:
    """int16 [C] that scales the lifted residual (docs/numerics.md, linear): old over new residual step.

    Within 1/2 of the factor times 2^15, and within 1 of it just below the factor 1, whose own number (`UNIT_RESIDUAL`)
    is exact.

    Args:
        ratio: float64 [C] > 0.
        dtype: Of the residual: torch.int8 (lifted by 8 bits) or torch.int16.
        fraction_bits: F of the operator.

    Raises:
        PlanError: The new grid is so much finer that the factor does not fit.
    """
    factor = ratio * 2.0 ** (15 + fraction_bits - _lifted_bits(dtype))
    scaled = torch.round(factor)
    if float(scaled.max()) > _UNIT:
        raise PlanError(f"the residual grid becomes finer by {float(ratio.max()):.3g}; it may at most keep its step")
    below = scaled.clamp_max(UNIT_RESIDUAL - 1)
    return torch.where(factor >= _UNIT - 1, UNIT_RESIDUAL, below).to(torch.int16)


def residual_fraction_bits(ratio: torch.Tensor, dtype: torch.dtype) -> int:
    """Largest F for which `residual_multiplier` fits."""
    if dtype == torch.int16:
        return 0
    largest = float(ratio.max())
    bits = FRACTION_BITS_INT8
    while bits > 0 and largest * 2.0 ** (15 + bits - _lifted_bits(dtype)) > _UNIT:
        bits -= 1
    return bits


def _lifted_bits(dtype: torch.dtype) -> int:
    return 8 if dtype == torch.int8 else 0
