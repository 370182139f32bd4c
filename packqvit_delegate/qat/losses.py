"""What training makes small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from ..arguments import shown
from ..errors import PackQViTError
from ..training.losses import distance, feature_distance
from ..training.outliers import outlier_consistency
from .method import TrainingMethod
from .preparation import QatModel


class Answer(NamedTuple):
    """What a model says to a batch.

    Attributes:
        output: Float [B, classes], or features [B, T, C].
        norms: Outputs of all LayerNorms, float [B, ..., C] each, where they are part of the loss.
    """

    output: torch.Tensor
    norms: Sequence[torch.Tensor] = ()


def objective(
    method: TrainingMethod, model: QatModel, answer: Answer, target: Answer | None, labels: torch.Tensor | None
) -> torch.Tensor:
    """The loss of a batch, as TrainingMethod says it.

    Args:
        method: Weighs its parts.
        model: That just gave the answer, in training mode.
        answer: Of the model.
        target: Of the teacher, of the same shapes; None: without distillation.
        labels: int64 [B]; None: there are none.

    Returns:
        float32 [].

    Raises:
        PackQViTError: Labels are wanted and missing, the output is not logits where it has to be, or the teacher's
            answer is of another shape.
    """
    output = answer.output.float()
    total = output.new_zeros(())
    if target is not None:
        if target.output.shape != output.shape:
            raise PackQViTError(
                f"the teacher answers with the shape {list(target.output.shape)}, the model with "
                f"{list(output.shape)}; both need the same classes"
            )
        if method.distillation == "hard":
            term = functional.cross_entropy(_logits(output), target.output.argmax(-1))
        else:
            term = distance(output, target.output.float())
        total = total + (1 - method.label_weight) * term
        if method.features > 0:
            total = total + method.features * feature_distance(answer.norms, target.norms)
    if method.label_weight > 0:
        if labels is None:
            raise PackQViTError("label_weight is not 0, but the data set gives images without labels")
        _check_labels(labels, _logits(output).shape[1])
        term = functional.cross_entropy(output, labels, label_smoothing=method.label_smoothing)
        total = total + method.label_weight * term
    if method.outlier_weight > 0:
        total = total + method.outlier_weight * outlier_consistency(model)
    return total


def _check_labels(labels: torch.Tensor, classes: int) -> None:
    if labels.is_floating_point() and labels.ndim == 2 and labels.shape[1] == classes:
        return  # probabilities
    if labels.is_floating_point() or labels.ndim != 1:
        raise PackQViTError(f"the data set's labels are {shown(labels)}, but must be whole numbers, one for each image")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise PackQViTError(f"the data set has the label {wrong}, the model has {classes} classes, from 0 on")


def _logits(output: torch.Tensor) -> torch.Tensor:
    if output.ndim != 2:
        raise PackQViTError(
            f"labels and hard distillation need logits [B, classes]; the model gives {list(output.shape)}: use soft "
            "distillation"
        )
    return output
