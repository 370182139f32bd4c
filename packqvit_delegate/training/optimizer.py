"""Learning rates by kind of parameter, and what changes in the course of a training."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..arguments import check_fields
from ..errors import PackQViTError
from .grids import LearnedAffine, LearnedChannelShifts, LearnedWeight
from .model import TrainableModel


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """Of Adam, whose steps are about as long as the rate.

    Attributes:
        weights: Of latent weights, in steps of their grid.
        weight_scales: Of the logarithms of weight scales.
        activation_scales: Of the logarithms of activation scales.
        others: Of biases and the weights of LayerNorms.

    Raises:
        PackQViTError: A rate is negative or not finite.
    """

    weights: float = 3e-3
    weight_scales: float = 5e-4
    activation_scales: float = 1e-3
    others: float = 2e-4

    def __post_init__(self) -> None:
        """Checks every rate."""
        check_fields(self)
        for field in dataclasses.fields(self):
            rate = getattr(self, field.name)
            if rate < 0:
                raise PackQViTError(f"the learning rate of {field.name} is {rate}, but has to be 0 or positive")

    def scaled(self, factor: float) -> LearningRates:
        """All rates times a factor."""
        return LearningRates(**{name: factor * rate for name, rate in dataclasses.asdict(self).items()})


def parameter_groups(model: TrainableModel, rates: LearningRates) -> list[dict[str, object]]:
    """The model's parameters with their rates, for any optimiser of PyTorch."""
    latents: list[nn.Parameter] = []
    weight_scales: list[nn.Parameter] = []
    activation_scales: list[nn.Parameter] = []
    for grid in model.grids.values():
        if isinstance(grid, LearnedWeight):
            latents.append(grid.latent)
            weight_scales.append(grid.log_scale)
        elif isinstance(grid, (LearnedAffine, LearnedChannelShifts)):
            activation_scales.append(grid.log_scale)
    groups = (
        ("weights", latents, rates.weights),
        ("weight_scales", weight_scales, rates.weight_scales),
        ("activation_scales", activation_scales, rates.activation_scales),
        ("others", list(model.learned.values()), rates.others),
    )
    return [{"name": name, "params": params, "lr": rate} for name, params, rate in groups if params]


def cosine_schedule(optimizer: torch.optim.Optimizer, steps: int, warmup: int = 10) -> LambdaLR:
    """A linear rise over `warmup` steps, times half a cosine that ends at 0 after `steps`."""

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return LambdaLR(optimizer, factor)


def unrounded_share(highest: float, step: int, steps: int) -> float:
    """For `TrainableModel.leave_unrounded`: falls in a line from `highest` to 0 after three quarters of the steps.

    Args:
        highest: At step 0.
        step: From 0 on.
        steps: Of the whole training.
    """
    return highest * max(0.0, 1 - step / (_ALL_ROUNDED * steps))


_ALL_ROUNDED = 0.75
