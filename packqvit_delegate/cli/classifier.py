"""Labels of image folders, and the classifier of a model that is fine-tuned on them."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from ..data import ImageFolder
from ..errors import PackQViTError
from ..models import LoadedModel


def check_labels(training: ImageFolder, testing: ImageFolder, new_classifier_learns: bool) -> None:
    """Labels mean the same in both folders, and something to the classifier.

    Args:
        training: with or without labels.
        testing: with labels.
        new_classifier_learns: whether the float model is fine-tuned, or has been.

    Raises:
        PackQViTError: they do not.
    """
    hint = "say with --labels which folder is which class of the model, or add a labels.csv"
    if training.labels is None:
        if testing.labels_from_folder_names:
            raise PackQViTError(f"{testing.root} has class folders, {training.root} no labels: {hint}")
    elif training.labels_from_folder_names != testing.labels_from_folder_names:
        raise PackQViTError(f"of {training.root} and {testing.root} only one has a labels.csv: {hint} to the other")
    elif training.labels_from_folder_names and not new_classifier_learns:
        raise PackQViTError(
            f"{training.root} has class folders, for which the classifier is a new one, and --float-steps 0 does not "
            f"train it: {hint}"
        )


def fit_classifier(
    loaded: LoadedModel, training: ImageFolder, testing: ImageFolder
) -> tuple[nn.Module, tuple[int, ...], ImageFolder, ImageFolder]:
    """A model with one class for each label that occurs, and folders whose labels count these.

    Without labels of the images to train on the model keeps its classes. Where labels are the model's own, the rows of
    its classifier are kept.

    Args:
        loaded: its last linear layer is the classifier.
        training: the images to train on.
        testing: the images to evaluate on, with labels.

    Returns:
        The model; the labels that its classes had before; and both folders.

    Raises:
        PackQViTError: a label is none of the model's, or only `testing` has it; or the classifier is not found.
    """
    assert testing.labels is not None
    name, head = _classifier(loaded)
    if training.labels is None:
        testing.check_labels(head.out_features)
        return loaded.module, tuple(range(head.out_features)), training, testing
    classes = sorted(set(training.labels))
    unknown = sorted(set(testing.labels) - set(classes))
    if unknown:
        raise PackQViTError(f"{testing.root} has the label {unknown[0]}, which no image of {training.root} has")
    fitted = nn.Linear(head.in_features, len(classes))
    with torch.no_grad():
        if training.labels_from_folder_names:
            fitted.weight.normal_(std=0.02, generator=torch.Generator().manual_seed(0))
            fitted.bias.zero_()
        else:
            training.check_labels(head.out_features)
            fitted.weight.copy_(head.weight[classes])
            fitted.bias.copy_(torch.zeros(len(classes)) if head.bias is None else head.bias[classes])
    model = copy.deepcopy(loaded.module)
    model.set_submodule(name, fitted)
    _check_outputs(loaded, model, fitted.out_features)
    index = {label: i for i, label in enumerate(classes)}
    folders = (dataclasses.replace(f, labels=tuple(index[i] for i in f.labels or ())) for f in (training, testing))
    return (model, tuple(classes), *folders)  # type: ignore[return-value]


def _classifier(loaded: LoadedModel) -> tuple[str, nn.Linear]:
    linears = [(name, module) for name, module in loaded.module.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise PackQViTError(f"{loaded.name} has no linear layer, so no classifier")
    return linears[-1]


def _check_outputs(loaded: LoadedModel, model: nn.Module, classes: int) -> None:
    """A model with two classifiers (distilled DeiT) would not fit together any more."""
    size = loaded.preprocessing.size
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(1, 3, size, size)).shape[-1]
    except RuntimeError:
        outputs = None
    if outputs != classes:
        raise PackQViTError(
            f"{loaded.name} does not end with one linear classifier, so that it cannot get {classes} classes; train it "
            "without labels (--label-weight 0 --float-steps 0): it keeps its classes then"
        )
