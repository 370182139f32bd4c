"""Weights that make up for errors before them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from models import images, plain_model
from packqvit_delegate import CalibrationMethod, PackQViTQuantizer, QuantizationConfig
from packqvit_delegate.calibration import calibrate
from packqvit_delegate.calibration.compensation import _INPUT_SHARE, _RIDGE, _STREAM_SHARE, Compensation
from packqvit_delegate.calibration.statistics import InputMoments
from packqvit_delegate.passes import lower_to_integer

OUTPUTS, CHANNELS, ROWS = 5, 7, 40


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def observed(float_x: Tensor, x: Tensor, lack: Tensor | None, weight: Tensor) -> tuple[Compensation, InputMoments]:
    """Both after the same rows, in two batches."""
    compensation, moments = Compensation(OUTPUTS, CHANNELS), InputMoments(CHANNELS)
    for rows in torch.arange(ROWS).split([15, 25]):
        compensation.add(x[rows], float_x[rows], None if lack is None else lack[rows], weight[rows])
        moments.add(x[rows], weight[rows])
    return compensation, moments


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("joins_stream", [False, True])
def test_weights_are_where_the_objective_is_flat(centred: bool, joins_stream: bool) -> None:
    float_x = random(ROWS, CHANNELS, seed=1) + 0.5
    x = float_x + 0.3 * random(ROWS, CHANNELS, seed=2) - 0.1
    lack = random(ROWS, OUTPUTS, seed=3) + 0.2 if joins_stream else None
    weight = random(OUTPUTS, CHANNELS, seed=4)
    counts = random(ROWS, seed=5).abs() + 0.1
    compensation, moments = observed(float_x, x, lack, counts)
    hessian = moments.hessian(centred)
    found = compensation.weight(weight, hessian, centred).requires_grad_()
    bias = torch.zeros(OUTPUTS, dtype=torch.float64)
    wanted = x @ weight.T + _INPUT_SHARE * (float_x - x) @ weight.T
    if lack is not None:
        wanted = wanted + _STREAM_SHARE * lack
    share = (counts / counts.sum()).unsqueeze(1)
    if centred:  # the bias that is best for these weights
        bias = ((wanted - x @ found.T) * share).sum(0).detach()
        torch.testing.assert_close(bias, compensation.bias(weight) + ((weight - found) @ moments.mean()).detach())
    error = ((x @ found.T + bias - wanted).square() * share).sum()
    ridge = _RIDGE * hessian.diagonal().mean() * (found - weight).square().sum()
    (gradient,) = torch.autograd.grad(error + ridge, found)
    assert float(gradient.abs().max()) < 1e-9
    assert not torch.allclose(found, weight, atol=1e-2)


def test_the_bias_takes_back_its_share_of_the_mean() -> None:
    x, weight = random(ROWS, CHANNELS, seed=1), random(OUTPUTS, CHANNELS, seed=4)
    offset, lack = random(CHANNELS, seed=2), random(1, OUTPUTS, seed=3).expand(ROWS, -1)
    compensation, _ = observed(x + offset, x, lack, torch.ones(ROWS, dtype=torch.float64))
    torch.testing.assert_close(compensation.bias(weight), _INPUT_SHARE * weight @ offset + _STREAM_SHARE * lack[0])


def test_without_errors_nothing_changes() -> None:
    x, weight = random(ROWS, CHANNELS, seed=1), random(OUTPUTS, CHANNELS, seed=4)
    compensation, moments = observed(x, x, torch.zeros(ROWS, OUTPUTS).double(), torch.ones(ROWS))
    assert torch.equal(compensation.weight(weight, moments.hessian(True), True), weight)
    assert torch.equal(compensation.bias(weight), torch.zeros(OUTPUTS, dtype=torch.float64))


def test_inputs_that_are_always_zero_are_no_trouble() -> None:
    x, weight = torch.zeros(ROWS, CHANNELS, dtype=torch.float64), random(OUTPUTS, CHANNELS, seed=4)
    compensation, moments = observed(x, x, None, torch.ones(ROWS))
    assert torch.equal(compensation.weight(weight, moments.hessian(True), True), weight)


def test_inputs_that_hardly_differ_move_weights_little() -> None:
    weight = random(OUTPUTS, CHANNELS, seed=4)
    x = (random(1, CHANNELS, seed=1) + 1e-8 * random(ROWS, CHANNELS, seed=2)).float()
    compensation, moments = observed(x + 0.1, x, None, torch.ones(ROWS))
    found = compensation.weight(weight, moments.hessian(True), True)
    assert float((found - weight).abs().max()) < float(weight.abs().max())


def program_error(config: QuantizationConfig, compensation: bool) -> float:
    train, test = images(64, seed=1), images(24, seed=2)
    prepared = prepare_pt2e(torch.export.export(plain_model(), (train[:1],)).module(), PackQViTQuantizer(config=config))
    calibrate(prepared, [(x,) for x in train.split(16)], 1, CalibrationMethod(compensation=compensation))
    integer = lower_to_integer(convert_pt2e(prepared))
    with torch.no_grad():
        found = torch.cat([integer(x) for x in test.split(1)])
        return float((found - plain_model()(test)).square().mean())


@pytest.mark.parametrize("activation_bits", [4, 8])
def test_programs_of_4_bits_come_closer_to_the_float_model(activation_bits: int) -> None:
    config = QuantizationConfig.from_bits(4, activation_bits)
    assert program_error(config, True) < 0.97 * program_error(config, False)


def test_weights_of_8_bits_are_left_alone() -> None:
    config = QuantizationConfig.from_bits(8)
    assert program_error(config, True) == program_error(config, False)
