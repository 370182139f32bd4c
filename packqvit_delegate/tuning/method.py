"""How a model is tuned."""

from __future__ import annotations

import dataclasses

import torch

from ..arguments import check_fields
from ..errors import CalibrationError, PackQViTError
from ..training.grids import LearnedAffine
from ..training.model import TrainableModel
from ..training.optimizer import LearningRates

_GENTLE = 1 / 2
_OTHERS = 8e-4


def default_rates(model: TrainableModel) -> LearningRates:
    """LearningRates(), with biases and LayerNorms four times as fast; half of LearningRates() at 8-bit activations.

    A model whose activations all have 8 bits begins close to the float one. At high rates its weights and biases move
    further away from what suits other images than tuning brings back (docs/accuracy.md).
    """
    return LearningRates(others=_OTHERS) if _has_narrow_activations(model) else LearningRates().scaled(_GENTLE)


def default_features(model: TrainableModel) -> float:
    """10; 30 where activations have less than 8 bits, whose answers are learned by heart sooner (docs/accuracy.md)."""
    return 30.0 if _has_narrow_activations(model) else 10.0


def _has_narrow_activations(model: TrainableModel) -> bool:
    return any(isinstance(grid, LearnedAffine) and grid.narrow for grid in model.grids.values())


@dataclasses.dataclass(frozen=True)
class TuningMethod:
    """What tuning does; the same method, images, seed and number of threads give the same program.

    Attributes:
        steps: Optimiser steps at most. Time is in proportion to `steps * batch`.
        batch: Images of a step.
        micro_batch: Images that pass the model at once; memory is in proportion to it, the result hardly changes.
        rates: Learning rates at their highest; None: `default_rates`.
        features: Weight of the distance of all LayerNorms' outputs beside that of the answers; None:
            `default_features`. Answers alone are learned by heart from a few hundred images; features, one for each
            token, are not.
        unrounded: At first this share of the tokens keeps its values where activations have less than 8 bits
            (`TrainableModel.leave_unrounded`); none does in the last quarter of the steps.
        ema: Decay of the running mean of all parameters, which is what is checked and kept; 0: no mean.
        smallest_crop: Images are cropped to at least this share of their area, and mirrored, anew at every step.
        held_out: Share of the images that is never trained on and decides which state is kept.
        checks: How often in all the held-out images are looked at.
        patience: Tuning ends when so many checks in a row brought nothing better.
        seed: Of all draws.
        device: Where to train: `cpu`, `cuda`.

    Raises:
        PackQViTError: A value is outside its range, or the device is not there.
    """

    steps: int = 450
    batch: int = 16
    micro_batch: int = 8
    rates: LearningRates | None = None
    features: float | None = None
    unrounded: float = 0.4
    ema: float = 0.98
    smallest_crop: float = 0.5
    held_out: float = 0.1
    checks: int = 12
    patience: int = 6
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Checks every field."""
        check_fields(self)
        for name in ("steps", "batch", "micro_batch", "checks", "patience"):
            if getattr(self, name) < 1:
                raise PackQViTError(f"{name} of the tuning is {getattr(self, name)}, but must be at least 1")
        if self.batch % self.micro_batch:
            raise PackQViTError(f"a batch of {self.batch} images is not a multiple of micro_batch {self.micro_batch}")
        if self.features is not None and not self.features >= 0:
            raise PackQViTError(f"features of the tuning is {self.features}, but must not be negative")
        if not 0 <= self.unrounded <= 1:
            raise PackQViTError(f"unrounded of the tuning is {self.unrounded}, outside [0, 1]")
        if not 0 <= self.ema < 1:
            raise PackQViTError(f"ema of the tuning is {self.ema}, outside [0, 1)")
        if not 0 < self.smallest_crop <= 1:
            raise PackQViTError(f"smallest_crop is {self.smallest_crop}, outside (0, 1]")
        if not 0 < self.held_out < 1:
            raise PackQViTError(f"held_out is {self.held_out}, outside (0, 1)")
        _check_device(self.device)

    def held_out_of(self, images: int) -> int:
        """How many of the images are never trained on.

        Raises:
            CalibrationError: The others are too few for one step.
        """
        held_out = max(1, round(self.held_out * images))
        if images - held_out < self.batch:
            raise CalibrationError(
                f"{images} images are too few to tune with: {held_out} are held out, and one step takes {self.batch}; "
                "give some hundreds"
            )
        return held_out


def _check_device(name: str) -> None:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PackQViTError(f"cannot tune on the device {name!r}: {reason}; use 'cpu'") from error
