"""The accuracy that training at 4 bits reaches on real data, by the runtime."""

from __future__ import annotations

import dataclasses
import time

import torch
from torch.nn import functional
from torch.utils.data import TensorDataset

import digits
from packqvit_delegate import QuantizationConfig, qat
from packqvit_delegate.training.optimizer import LearningRates
from programs import digits_model

METHOD = qat.TrainingMethod(
    steps=600,
    batch=64,
    rates=LearningRates(weights=1e-2, weight_scales=2e-3, activation_scales=4e-3, others=2e-3),
    label_weight=0.5,
    label_smoothing=0.1,
    features=1.0,
    ema=0.98,
    smallest_crop=None,  # a mirrored digit is another one
)
LARGEST_LOSS = 0.01
SECONDS = 180


def shifted(data: digits.Split) -> TensorDataset:
    """The digits, and each of them moved by a pixel in eight directions."""
    wide = functional.pad(data.images, (1, 1, 1, 1), value=-1.0)
    views = [wide[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
    return TensorDataset(torch.cat(views), data.labels.repeat(len(views)))


def test_four_bits_are_within_a_point_of_float() -> None:
    training, test = digits.load_data()
    model = digits_model()
    with torch.no_grad():
        accuracy = digits.accuracy(model(test.images), test.labels)
    config = dataclasses.replace(QuantizationConfig.preset("w4a4"), input_normalization=(digits.MEAN, digits.STD))
    start = time.process_time()
    learner = qat.prepare(model, (training.images[:1],), training.images[:256], config)
    history = qat.train(learner, shifted(training), teacher=learner.float_model(), method=METHOD)
    program = qat.export(learner)
    assert time.process_time() - start < SECONDS
    assert sum(history.losses[-20:]) < sum(history.losses[:20])
    assert program.report.is_whole
    logits = digits.run(program, test.images)
    assert digits.accuracy(logits, test.labels) >= accuracy - LARGEST_LOSS
    with torch.no_grad():
        assert torch.equal(learner(test.images), logits)
