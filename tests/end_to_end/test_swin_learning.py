"""Tuning, quantisation-aware training, sensitivity and mixed precision on windows, merging and mean pooling."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from models import images, randomize
from packqvit_delegate import QuantizationConfig, TuningMethod, export, finish, qat, sensitivity
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.models import SwinConfig, SwinTransformer
from packqvit_delegate.preparation import make_pair
from packqvit_delegate.tuning import tune
from programs import assert_whole_and_exact

W4A4 = QuantizationConfig.preset("w4a4")


@functools.cache
def model() -> nn.Module:
    config = SwinConfig(image_size=32, window=4, dim=16, heads=2, depths=(2, 1), num_classes=5)
    return randomize(SwinTransformer(config))


def test_tuning_brings_the_answers_closer() -> None:
    x = images(64, 32)
    pair = make_pair(model(), (x[:1],), Batches([x], (x[:1],)), W4A4, None, None)
    result = tune(pair.prepared, pair.reference, x, 1, TuningMethod(steps=30))
    assert result.after < result.before
    assert_whole_and_exact(finish(pair.to_integer(), (x[:1],), W4A4), x[:1])


def test_training() -> None:
    x = images(16, 32)
    learner = qat.prepare(model(), (x[:1],), x, W4A4)
    data = torch.utils.data.TensorDataset(x, torch.arange(16) % 5)
    qat.train(learner, data, teacher=model(), method=qat.TrainingMethod(steps=2, batch=8, label_weight=0.5))
    assert_whole_and_exact(qat.export(learner), x[:1])


def test_sensitivity_names_every_linear_of_the_model() -> None:
    x = images(12, 32)
    report = sensitivity.analyze(model(), (x[:1],), x[:8], W4A4, images=x[8:])
    losses = {operator.layer: operator for operator in report.operators}
    linears = {name for name, module in model().named_modules() if isinstance(module, nn.Linear)}
    assert linears - {"head.fc"} <= losses.keys()  # the last one is the output
    assert all(operator.own_snr > 5 for operator in losses.values()), losses  # each is held against its own float value


@pytest.mark.parametrize("weights", [0.15])
def test_a_mix_within_its_limits(weights: float) -> None:
    x = images(12, 32)
    mix = sensitivity.suggest(model(), (x[:1],), x, W4A4, limits=sensitivity.Limits(weights, 0.25))
    assert mix.overrides
    assert_whole_and_exact(export(model(), (x[:1],), x, config=mix.apply(W4A4)), x[:1])
