"""GPTQ against rounding one by one, on the error that it minimises."""

from __future__ import annotations

import pytest
import torch

from packqvit_delegate.calibration.branches import sample_rows
from packqvit_delegate.calibration.rounding import gptq, weighted_scales
from packqvit_delegate.calibration.statistics import InputMoments


def correlated_inputs(rows: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, channels // 4, generator=generator)
    mixed = hidden @ torch.randn(channels // 4, channels, generator=generator)
    return mixed + 0.1 * torch.randn(rows, channels, generator=generator) + 3.0


@pytest.mark.parametrize(("channels", "qmax"), [(24, 7), (70, 7), (130, 7), (70, 127)])
def test_gptq_beats_rounding_to_nearest(channels: int, qmax: int) -> None:
    x = correlated_inputs(500, channels)
    weight = torch.randn(16, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moments = InputMoments(channels)
    moments.add(x)
    hessian = moments.hessian(centred=True)
    scales = weighted_scales(weight, hessian, qmax)
    nearest = (weight / scales[:, None]).round().clamp(-qmax, qmax)
    codes = gptq(weight, hessian, scales, qmax, 0.01)
    centred = x.double() - x.double().mean(0)

    def error(c: torch.Tensor) -> float:
        return float(((c * scales[:, None] - weight) @ centred.T).square().mean())

    assert torch.equal(codes, codes.round()) and float(codes.abs().max()) <= qmax
    assert error(codes) < 0.5 * error(nearest)


def test_uncorrelated_inputs_round_to_nearest() -> None:
    weight = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    hessian = torch.eye(10, dtype=torch.float64)
    scales = weighted_scales(weight, hessian, 7)
    assert torch.equal(gptq(weight, hessian, scales, 7, 0.01), (weight / scales[:, None]).round().clamp(-7, 7))


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    hessian = torch.diag(torch.tensor([1.0, 0.0, 2.0, 0.0], dtype=torch.float64))
    weight = torch.tensor([[0.5, 9.0, -0.25, 1.0]], dtype=torch.float64)
    scales = torch.tensor([0.25], dtype=torch.float64)
    codes = gptq(weight, hessian, scales, 7, 0.01)
    assert codes[0, 0] == 2 and codes[0, 2] == -1 and bool(torch.isfinite(codes).all())


def test_moments_do_not_depend_on_how_the_rows_come() -> None:
    x = correlated_inputs(60, 12)
    weight = torch.rand(60) + 0.1
    whole, parts = InputMoments(12), InputMoments(12)
    whole.add(x, weight)
    for first in (0, 7, 40):
        last = {0: 7, 7: 40, 40: 60}[first]
        parts.add(x[first:last].reshape(1, -1, 12), weight[first:last].reshape(1, -1))
    assert torch.allclose(whole.mean(), parts.mean())
    assert torch.allclose(whole.hessian(True), parts.hessian(True), rtol=1e-4, atol=1e-4)  # products in float32
    expected = (weight[:, None] * x).sum(0) / weight.sum()
    assert torch.allclose(whole.mean().float(), expected, rtol=1e-4)


def test_a_sample_of_rows_has_every_extreme_one_and_stands_for_all() -> None:
    rows = torch.randn(5000, 600, generator=torch.Generator().manual_seed(3))
    rows[[17, 4321]] *= 100
    chosen, counts = sample_rows(rows)
    assert {17, 4321} <= set(chosen.tolist()) and chosen.unique().numel() == chosen.numel() < 1000
    assert float(counts.sum()) == pytest.approx(5000)
    few, ones = sample_rows(rows[:10])
    assert sorted(few.tolist()) == list(range(10)) and bool((ones == 1).all())
