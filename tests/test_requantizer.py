"""The integers that scale a residual stream."""

from __future__ import annotations

import pytest
import torch

from packqvit_delegate import PlanError
from packqvit_delegate.ops.residual import UNIT_RESIDUAL
from packqvit_delegate.requantizer import residual_fraction_bits, residual_multiplier


def _scaled(residual: torch.Tensor, multiplier: torch.Tensor, fraction_bits: int) -> torch.Tensor:
    """The stream alone, through linear_add."""
    channels = residual.shape[-1]
    x, weight = torch.zeros(*residual.shape[:-1], 1, dtype=torch.int8), torch.zeros(channels, 1, dtype=torch.int8)
    bias, shift = torch.zeros(channels, dtype=torch.int32), torch.zeros(channels, dtype=torch.uint8)
    branch = (x, weight, bias, torch.full((channels,), 1 << 14, dtype=torch.int16), shift)
    return torch.ops.packqvit.linear_add(*branch, residual, multiplier, 8, 0, fraction_bits)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
def test_a_stream_that_keeps_its_grid_keeps_its_codes(dtype: torch.dtype) -> None:
    limits = torch.iinfo(dtype)
    codes = torch.arange(limits.min, limits.max + 1).to(dtype).reshape(-1, 1)
    one = torch.ones(1, dtype=torch.float64)
    bits = residual_fraction_bits(one, dtype)
    assert torch.equal(_scaled(codes, residual_multiplier(one, dtype, bits), bits), codes)


def test_multipliers_are_within_their_precision() -> None:
    ratio = torch.cat([torch.linspace(1e-6, 1, 4001), 1 - torch.arange(0, 40) * 2.0**-17]).double()
    multiplier = residual_multiplier(ratio, torch.int16, 0).double()
    factor = torch.where(multiplier == UNIT_RESIDUAL, 2.0**15, multiplier)
    near_one = (ratio * 2**15 > 32766) & (ratio < 1)
    assert bool(((factor - ratio * 2**15).abs() <= torch.where(near_one, 1.0, 0.5)).all())


def test_int8_takes_factors_up_to_four_with_all_fraction_bits() -> None:
    four = torch.tensor([4.0]).double()
    assert residual_fraction_bits(four, torch.int8) == 6
    codes = torch.arange(-32, 32).to(torch.int8).reshape(-1, 1)
    assert torch.equal(_scaled(codes, residual_multiplier(four, torch.int8, 6), 6), 4 * codes)
    assert residual_fraction_bits(four + 0.01, torch.int8) == 5


def test_a_grid_that_becomes_too_fine_is_refused() -> None:
    with pytest.raises(PlanError, match="finer"):
        residual_multiplier(torch.tensor([1.01]).double(), torch.int16, 0)
