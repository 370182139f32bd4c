"""Inputs that hardly differ leave a Hessian that weights can still be rounded by."""

from __future__ import annotations

import pytest
import torch

from packqvit_delegate.calibration.rounding import round_settled
from packqvit_delegate.calibration.statistics import InputMoments


def moments(x: torch.Tensor) -> InputMoments:
    found = InputMoments(x.shape[-1])
    for part in x.split(7):
        found.add(part)
    return found


def test_the_covariance_of_inputs_that_differ() -> None:
    x = torch.randn(256, 12, generator=torch.Generator().manual_seed(0)) + 1
    expected = x.double().T.cov(correction=0)
    torch.testing.assert_close(moments(x).hessian(True), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("offset", [1.0, 37.0, 1e4])
@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_constant_channels_leave_no_rounding_errors(offset: float, noise: float) -> None:
    """A difference of large sums would leave variances of either sign, and by them weights of any size."""
    generator = torch.Generator().manual_seed(1)
    x = offset * (1 + torch.rand(1, 12, generator=generator)) + noise * torch.randn(64, 12, generator=generator)
    x[:, 3:5] = torch.randn(64, 2, generator=generator)  # some differ
    hessian = moments(x).hessian(True)
    assert float(torch.linalg.eigvalsh(hessian).min()) > 0
    weight = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    found = round_settled(weight, hessian, 7, 0.01)
    for value in (found.scales, found.codes, found.unrounded):
        assert bool(torch.isfinite(value).all())
    assert float((found.codes * found.scales[:, None] - weight).abs().max()) < 2 * float(weight.abs().max())


def test_channels_that_are_never_used() -> None:
    hessian = moments(torch.zeros(16, 6)).hessian(True)
    assert torch.equal(hessian, torch.zeros(6, 6, dtype=torch.float64))
