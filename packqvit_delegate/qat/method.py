"""How a model is trained."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..arguments import check_fields
from ..errors import PackQViTError
from ..training.optimizer import LearningRates


@dataclasses.dataclass(frozen=True)
class TrainingMethod:
    """What training does; the same method, data and number of processes and threads give the same model.

    The loss is `(1 - label_weight) * distillation + label_weight * cross entropy + features * distance of LayerNorm
    outputs + outlier_weight * consistency`.

    Attributes:
        steps: Optimiser steps.
        batch: Images of a step in each process.
        micro_batch: Images that pass the model at once, to save memory; None: the whole batch.
        rates: Learning rates of Adam at their highest.
        warmup: Steps over which the rates rise; then they fall along a cosine to 0.
        distillation: `soft`: the divergence from the teacher's probabilities (of embeddings, see answers.py), `hard`:
            the cross entropy to the teacher's choice (DeiT, ICML 2021), `none`: labels alone.
        label_weight: Share of the labels in the loss, in [0, 1].
        label_smoothing: Of the labels' cross entropy, in [0, 1).
        features: Weight of the distance between all LayerNorms' outputs and the teacher's, which has to be
            `QatModel.float_model()`. From few images answers are learned by heart, features, one for each token, are
            not.
        outlier_weight: Of what keeps outlier channels alike across blocks (training/outliers.py); int8 residual only.
        clip: The norm of the gradients is cut to this; None: it is not.
        ema: Decay of the running mean of all parameters, scales included, which takes their place at the end; None:
            the parameters of the last step stay.
        unrounded: At first this share of the tokens keeps its values where activations have less than 8 bits
            (`TrainableModel.leave_unrounded`); none does in the last quarter of the steps.
        smallest_crop: Images are cropped to at least this share of their area and mirrored, anew at every step; 1: they
            are only mirrored; None: they are left as they are. Crops of images larger than the model's input are
            scaled down to it: they are sharper than those of an image that was scaled before.
        mixup: Share of the images that are blended with another one; without labels only. With a teacher that sees the
            same picture, few images go further (docs/training.md).
        cutmix: Share of the images into which a rectangle of another one is pasted; likewise.
        autocast: Float arithmetic in bfloat16 by torch.autocast; grids, codes and losses stay in float32.
        seed: Of the order of the images and of all draws.

    Raises:
        PackQViTError: A value is outside its range.
    """

    steps: int = 1000
    batch: int = 32
    micro_batch: int | None = None
    rates: LearningRates = dataclasses.field(default_factory=LearningRates)
    warmup: int = 10
    distillation: Literal["soft", "hard", "none"] = "soft"
    label_weight: float = 0.0
    label_smoothing: float = 0.0
    features: float = 0.0
    outlier_weight: float = 0.0
    clip: float | None = 1.0
    ema: float | None = 0.99
    unrounded: float = 0.0
    smallest_crop: float | None = 0.5
    mixup: float = 0.0
    cutmix: float = 0.0
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every field."""
        check_fields(self)
        for name in ("steps", "batch", "warmup"):
            if getattr(self, name) < 1:
                raise PackQViTError(f"{name} of the training is {getattr(self, name)}, but must be at least 1")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch % self.micro_batch):
            raise PackQViTError(f"a batch of {self.batch} images is not a multiple of micro_batch {self.micro_batch}")
        if self.seed < 0:
            raise PackQViTError(f"seed is {self.seed}, but must be at least 0")
        for name in ("label_weight", "unrounded", "mixup", "cutmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise PackQViTError(f"{name} is {getattr(self, name)}, outside [0, 1]")
        if self.label_weight > 0 and (self.mixup > 0 or self.cutmix > 0):
            raise PackQViTError("mixup and cutmix are for training without labels: set label_weight or them to 0")
        if (self.distillation == "none") != (self.label_weight == 1):
            raise PackQViTError(
                f"distillation {self.distillation!r} with a label_weight of {self.label_weight}: without distillation "
                "the weight has to be 1, with it less"
            )
        if not 0 <= self.label_smoothing < 1:
            raise PackQViTError(f"label_smoothing is {self.label_smoothing}, outside [0, 1)")
        for name in ("features", "outlier_weight"):
            if not getattr(self, name) >= 0:
                raise PackQViTError(f"{name} is {getattr(self, name)}, but must be 0 or positive")
        if self.features > 0 and self.distillation == "none":
            raise PackQViTError("features are learned from a teacher: distillation has to be 'soft' or 'hard'")
        if self.clip is not None and not self.clip > 0:
            raise PackQViTError(f"clip is {self.clip}, but must be positive, or None")
        if self.ema is not None and not 0 < self.ema < 1:
            raise PackQViTError(f"ema is {self.ema}, outside (0, 1)")
        if self.smallest_crop is not None and not 0 < self.smallest_crop <= 1:
            raise PackQViTError(f"smallest_crop is {self.smallest_crop}, outside (0, 1]")
