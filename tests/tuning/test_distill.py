"""Tuning without labels."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from models import Tower, images, plain_model
from packqvit_delegate import CalibrationError, PackQViTError, QuantizationConfig, TuningMethod, quantize
from packqvit_delegate.answers import divergence, tensors_of
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.embeddings import cosine_similarity
from packqvit_delegate.passes import lower_to_integer
from packqvit_delegate.preparation import make_pair
from packqvit_delegate.training import TrainableModel
from packqvit_delegate.training.optimizer import LearningRates
from packqvit_delegate.tuning import TuningReport, tune
from packqvit_delegate.tuning.method import default_features, default_rates
from training.support import calibrated_model

FAST = {"steps": 40, "batch": 8, "micro_batch": 8, "checks": 4, "smallest_crop": 1.0}
QUICK = LearningRates(weights=0.01, weight_scales=2e-3, activation_scales=4e-3, others=2e-3)
WILD = LearningRates(weights=5.0, weight_scales=1.0, activation_scales=1.0, others=1.0)


def tuned(count: int = 48, **method: Any) -> tuple[GraphModule, GraphModule, TuningReport]:
    float_module, prepared = calibrated_model()
    report = tune(prepared, float_module, images(count, seed=7), 1, TuningMethod(**{**FAST, "rates": QUICK, **method}))
    return float_module, prepared, report


def integer_distance(prepared: GraphModule, float_module: GraphModule, x: torch.Tensor) -> float:
    integer = lower_to_integer(convert_pt2e(copy.deepcopy(prepared)))
    with torch.no_grad():
        pairs = [(integer(image), float_module(image)) for image in x.split(1)]
    return float(divergence(torch.cat([b for _, b in pairs]), torch.cat([a for a, _ in pairs])).mean())


def test_the_integer_program_comes_closer_on_images_that_it_never_saw() -> None:
    _, calibrated = calibrated_model()
    # Answers alone, so that the report's loss is the distance that is asked for below.
    float_module, prepared, report = tuned(count=300, steps=400, features=0.0)
    assert report.after < 0.8 * report.before and report.steps == 400
    x = images(200, seed=11)
    assert integer_distance(prepared, float_module, x) < 0.9 * integer_distance(calibrated, float_module, x)


def test_it_learns_features_too() -> None:
    _, calibrated = calibrated_model()
    float_module, prepared, report = tuned(count=300, steps=400)
    _, _, answers = tuned(count=300, steps=1, features=0.0)
    x = images(200, seed=11)
    assert integer_distance(prepared, float_module, x) < 0.9 * integer_distance(calibrated, float_module, x)
    assert report.after < 0.95 * report.before
    assert answers.before < 0.5 * report.before  # what is left is the LayerNorms' share


@pytest.mark.parametrize("model", [Tower(), Tower(lambda tokens: (tokens[:, 0], tokens.mean(1)))])
def test_embeddings_come_closer_on_images_that_it_never_saw(model: Tower) -> None:
    x, example = images(16, seed=1), (images(1),)
    pair = make_pair(model, example, Batches(x, example), QuantizationConfig(activation_bits=4))
    unseen = images(100, seed=11)

    def cosines() -> list[float]:
        with torch.no_grad():
            found = tensors_of(TrainableModel(pair.prepared).eval()(unseen))
            return [
                float(cosine_similarity(*each).mean()) for each in zip(found, tensors_of(model(unseen)), strict=True)
            ]

    before = cosines()
    method = TuningMethod(**{**FAST, "rates": QUICK, "steps": 300, "features": 0.0})  # type: ignore[arg-type]
    report = tune(pair.prepared, pair.reference, images(300, seed=7), 1, method)
    assert report.after < 0.8 * report.before
    assert all(1 - after < 0.85 * (1 - old) for after, old in zip(cosines(), before, strict=True))


def test_the_same_seed_gives_the_same_program() -> None:
    x = images(1, seed=5)
    answers = []
    for seed in (0, 0, 1):
        _, prepared, report = tuned(count=150, checks=1, seed=seed)
        assert report.after < report.before  # else all would be as calibrated
        with torch.no_grad():
            answers.append(lower_to_integer(convert_pt2e(prepared))(x))
    assert torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])


def test_it_never_ends_worse_than_it_began_and_stops_early() -> None:
    _, calibrated = calibrated_model()
    _, prepared, report = tuned(rates=WILD, patience=2)
    assert report.after == report.before
    assert report.steps == 20  # two checks of ten steps each
    x = images(1, seed=5)
    with torch.no_grad():
        expected, found = (lower_to_integer(convert_pt2e(module))(x) for module in (calibrated, prepared))
    assert torch.equal(found, expected)


def test_a_program_for_batches_is_tuned_as_well() -> None:
    float_module, prepared = calibrated_model(batch_size=2)
    report = tune(prepared, float_module, images(32, seed=7), 2, TuningMethod(**{**FAST, "rates": QUICK, "steps": 12}))  # type: ignore[arg-type]
    assert report.after < report.before
    assert lower_to_integer(convert_pt2e(prepared))(images(2)).shape == (2, 10)


def test_tuning_is_part_of_quantize() -> None:
    progress: list[str] = []

    def record(items: Iterable[Any], description: str, length: int | None) -> Iterable[Any]:
        progress.append(description)
        return items

    method = TuningMethod(**{**FAST, "rates": QUICK, "steps": 12})  # type: ignore[arg-type]
    x, config = images(16, seed=1), QuantizationConfig()
    plain = quantize(plain_model(), (x[:1],), x, config)
    other = quantize(
        plain_model(), (x[:1],), x, config, tuning=method, tuning_images=images(32, seed=7), progress=record
    )
    assert progress[-1] == "tuning"
    with torch.no_grad():
        assert not torch.equal(plain(x[:1]), other(x[:1]))


def test_too_few_images() -> None:
    with pytest.raises(CalibrationError, match="8 images are too few"):
        tuned(count=8)


def test_a_loss_that_is_not_finite_says_where_it_began() -> None:
    float_module, prepared = calibrated_model()
    x = images(32, seed=7)
    x[:, 0, 0, 0] = float("nan")
    with pytest.raises(PackQViTError, match="diverged: the loss is nan at step 1, from"):
        tune(prepared, float_module, x, 1, TuningMethod(**FAST))  # type: ignore[arg-type]


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(PackQViTError, match="device 'nonsense'"):
        tuned(device="nonsense")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps of the tuning is 0"),
        ("micro_batch", 3, "not a multiple of micro_batch 3"),
        ("unrounded", 1.5, "unrounded of the tuning is 1.5"),
        ("ema", 1.0, "ema of the tuning is 1.0"),
        ("smallest_crop", 0.0, "smallest_crop is 0.0"),
        ("held_out", 1.0, "held_out is 1.0"),
    ],
)
def test_methods_that_make_no_sense(field: str, value: float, message: str) -> None:
    with pytest.raises(PackQViTError, match=message):
        TuningMethod(**{field: value})  # type: ignore[arg-type]


def test_rates_that_make_no_sense() -> None:
    with pytest.raises(PackQViTError, match="learning rate of weights is -1"):
        LearningRates(weights=-1.0)


def test_models_with_8_bit_activations_are_tuned_gently() -> None:
    models = [TrainableModel(calibrated_model(activation_bits=bits, weight_bits=4)[1]) for bits in (4, 8)]
    narrow, wide = map(default_rates, models)
    assert wide == LearningRates().scaled(0.5) and wide.weights == 0.5 * LearningRates().weights
    assert narrow == dataclasses.replace(LearningRates(), others=4 * LearningRates().others)
    assert [default_features(model) for model in models] == [30, 10]
