"""What is added into the residual stream, and the stream's change of grid on the way."""

from __future__ import annotations

import torch

from .arithmetic import INT16_MAX, multiply_high, round_steps

UNIT_RESIDUAL = INT16_MAX
"""The residual multiplier that stands for 1 exactly: int16 has no 2^15."""


def scale_residual(residual: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
    """`u` of docs/numerics.md: residual codes in the steps of the sum, with its fraction bits."""
    lifted = residual.long() << 8 if residual.dtype == torch.int8 else residual.long()
    return torch.where(multiplier == UNIT_RESIDUAL, lifted, multiply_high(lifted, multiplier.long()))


def onto_residual(base: torch.Tensor, branch: torch.Tensor, fraction_bits: int, dtype: torch.dtype) -> torch.Tensor:
    """The sum as codes of `dtype`; only here it saturates."""
    limits = torch.iinfo(dtype)
    return round_steps(base + branch, fraction_bits, limits.min, limits.max).to(dtype)
