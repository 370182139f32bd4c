"""What training makes small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from ..answers import Kind, losses
from ..arguments import shown
from ..errors import PackQViTError
from ..training.losses import feature_distance
from ..training.outliers import outlier_consistency
from .method import TrainingMethod
from .preparation import QatModel


class Answer(NamedTuple):
    """What a model says to a batch.

    Attributes:
        outputs: Float [B, ...] each: class scores [B, classes], or embeddings.
        norms: Outputs of all LayerNorms, float [B, ..., C] each, where they are part of the loss.
    """

    outputs: Sequence[torch.Tensor]
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
    outputs = [output.float() for output in answer.outputs]
    total = outputs[0].new_zeros(())
    kinds: Sequence[Kind] = model.answers
    if method.label_weight > 0 or method.distillation == "hard":  # who has labels says that there are classes
        _check_logits(outputs)
        kinds = ("classes",)
    if target is not None:
        wanted = [output.float() for output in target.outputs]
        if [x.shape for x in wanted] != [x.shape for x in outputs]:
            raise PackQViTError(
                f"the teacher answers with {_shapes(wanted)}, the model with {_shapes(outputs)}; both need the same "
                "outputs, of the same classes"
            )
        if method.distillation == "hard":
            term = functional.cross_entropy(outputs[0], wanted[0].argmax(-1))
        else:
            term = losses(outputs, wanted, kinds).mean()
        total = total + (1 - method.label_weight) * term
        if method.features > 0:
            total = total + method.features * feature_distance(answer.norms, target.norms)
    if method.label_weight > 0:
        if labels is None:
            raise PackQViTError("label_weight is not 0, but the data set gives images without labels")
        _check_labels(labels, outputs[0].shape[1])
        term = functional.cross_entropy(outputs[0], labels, label_smoothing=method.label_smoothing)
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


def _check_logits(outputs: Sequence[torch.Tensor]) -> None:
    if len(outputs) != 1 or outputs[0].ndim != 2:
        raise PackQViTError(
            f"labels and hard distillation need logits [B, classes]; the model gives {_shapes(outputs)}: use soft "
            "distillation"
        )


def _shapes(outputs: Sequence[torch.Tensor]) -> str:
    return ", ".join(f"the shape {list(output.shape)}" for output in outputs) or "no floating-point tensor"
