"""What the tests of training share: micro models, data, quick methods."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch.utils.data import TensorDataset

from models import images, plain_model
from packqvit_delegate import QuantizationConfig, qat
from packqvit_delegate.training.optimizer import LearningRates

QUICK = LearningRates(weights=0.01, weight_scales=2e-3, activation_scales=4e-3, others=2e-3)


def method(**changes: Any) -> qat.TrainingMethod:
    """A few quick steps on whole images."""
    return qat.TrainingMethod(**{"steps": 6, "batch": 8, "warmup": 1, "rates": QUICK, "smallest_crop": None, **changes})


@functools.cache
def _prepared_once(**config: Any) -> qat.QatModel:
    x = images(16, seed=1)
    return qat.prepare(plain_model(), (x[:1],), x, QuantizationConfig(**config))


def prepared(integer_functions: bool = False, **config: Any) -> qat.QatModel:
    """A micro Vision Transformer, calibrated; in float arithmetic on its grids unless asked for, which is faster.

    Each caller has its own; the graphs behind it are copies of those that were calibrated once.
    """
    made = _prepared_once(**config)
    graph, float_graph = (copy.deepcopy(module) for module in (made._prepared[0], made._float_module[0]))
    return qat.QatModel(graph, made.example_inputs, made.config, made.ranges, integer_functions, float_graph)


def data(count: int = 48, labels: bool = False) -> TensorDataset:
    """Random images, with the float model's choices as labels."""
    x = images(count, seed=7)
    if not labels:
        return TensorDataset(x)
    with torch.no_grad():
        return TensorDataset(x, plain_model()(x).argmax(1))


def parameters(model: qat.QatModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}
