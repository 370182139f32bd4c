"""GPTQ against rounding one by one, on the error that it minimises."""

from __future__ import annotations

import pytest
import torch

from packqvit_delegate.calibration.branches import rows_of, sample_rows
from packqvit_delegate.calibration.rounding import gptq, gptq_with_scales, round_settled, settle, weighted_scales
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


def layer(channels: int = 70) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [16, channels], and the second moments of inputs that go together."""
    moments = InputMoments(channels)
    moments.add(correlated_inputs(500, channels))
    weight = torch.randn(16, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hessian = moments.hessian(centred=True)
    return weight, hessian + 0.01 * hessian.diagonal().mean() * torch.eye(channels, dtype=torch.float64)


def errors(weight: torch.Tensor, hessian: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Of each output channel."""
    difference = codes * scales[:, None] - weight
    return ((difference @ hessian) * difference).sum(1)


@pytest.mark.parametrize("channels", [5, 64, 130])
def test_no_single_settled_code_can_change_for_the_better(channels: int) -> None:
    weight, hessian = layer(channels)
    scales = weighted_scales(weight, hessian, 7)
    start = gptq(weight, hessian, scales, 7, 0.01)
    codes, alone = settle(weight, hessian, start, scales, 7)
    least = errors(weight, hessian, codes, scales)
    assert torch.equal(codes, codes.round()) and float(codes.abs().max()) <= 7
    assert bool((least <= errors(weight, hessian, start, scales)).all())
    for column in range(channels):
        for step in (-1.0, 1.0):
            other = codes.clone()
            other[:, column] = (codes[:, column] + step).clamp(-7, 7)
            assert bool((errors(weight, hessian, other, scales) >= least - 1e-12).all())
        free = codes.clone()
        free[:, column] = alone[:, column]
        for nudge in (-0.01, 0.01):
            other = free.clone()
            other[:, column] += nudge
            assert bool((errors(weight, hessian, other, scales) > errors(weight, hessian, free, scales)).all())


def test_settled_codes_and_steps_beat_gptq() -> None:
    weight, hessian = layer(130)
    settled = round_settled(weight, hessian, 7, 0.01)
    assert float(settled.scales.min()) > 0
    ratio = errors(weight, hessian, settled.codes, settled.scales).sum()
    ratio /= errors(weight, hessian, *gptq_with_scales(weight, hessian, 7, 0.01)).sum()
    assert float(ratio) < 0.95
    inside = settled.codes.abs() < 7
    torn = (settled.unrounded / settled.scales[:, None] - settled.codes)[inside].abs()
    assert float(torn.max()) <= 0.5 + 1e-9


def test_a_layer_that_is_off_keeps_its_steps() -> None:
    weight, hessian = layer(24)
    settled = round_settled(torch.zeros_like(weight), hessian, 7, 0.01)
    assert torch.equal(settled.codes, torch.zeros_like(weight))
    assert bool(torch.isfinite(settled.scales).all()) and float(settled.scales.min()) > 0


def test_codes_of_8_bits_stay_as_gptq_rounds_them() -> None:
    weight, hessian = layer(24)
    settled = round_settled(weight, hessian, 127, 0.01)
    codes, scales = gptq_with_scales(weight, hessian, 127, 0.01)
    assert torch.equal(settled.codes, codes) and torch.equal(settled.scales, scales)
    assert torch.equal(settled.unrounded, weight)


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
    chosen, counts = sample_rows(rows.abs().amax(1), 600)
    assert {17, 4321} <= set(chosen.tolist()) and chosen.unique().numel() == chosen.numel() < 1000
    assert float(counts.sum()) == pytest.approx(5000)
    few, ones = sample_rows(rows[:10].abs().amax(1), 600)
    assert sorted(few.tolist()) == list(range(10)) and bool((ones == 1).all())
    batches = [rows[:1000].reshape(10, 100, 600), rows[1000:].reshape(8, 500, 600)]
    assert torch.equal(rows_of(batches, chosen), rows[chosen])
