"""Which classifier a fine-tuned model gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from packqvit_delegate.cli.classifier import fit_classifier
from packqvit_delegate.data import ImageFolder, Preprocessing
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import LoadedModel


def folder(*labels: int, from_names: bool = False) -> ImageFolder:
    return ImageFolder(Path("photos"), tuple(Path(f"{i}.png") for i in range(len(labels))), labels, from_names)


def loaded(module: nn.Module) -> LoadedModel:
    return LoadedModel("micro", module, Preprocessing(4, 1.0, (0.5,) * 3, (0.5,) * 3), "a test")


class Model(nn.Module):
    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Linear(48, 8)
        self.end = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5, bias=bias))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.body(x.flatten(1)))


class Distilled(Model):
    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.second(self.body(x.flatten(1)))


@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_the_classes_that_occur_are_kept(bias: bool) -> None:
    model, x = Model(bias), torch.randn(2, 3, 4, 4)
    fitted, kept, training, testing = fit_classifier(loaded(model), folder(4, 1, 4), folder(1, 4))
    assert kept == (1, 4)
    with torch.no_grad():
        torch.testing.assert_close(fitted(x), model(x)[:, [1, 4]])
    assert training.labels == (1, 0, 1) and testing.labels == (0, 1)


def test_class_folders_get_a_new_classifier_and_leave_the_model_alone() -> None:
    model, x = Model(), torch.randn(2, 3, 4, 4)
    fitted, _, training, _ = fit_classifier(loaded(model), folder(0, 1, 2, from_names=True), folder(2, from_names=True))
    assert fitted(x).shape == (2, 3) and model(x).shape == (2, 5) and training.labels == (0, 1, 2)
    again, *_ = fit_classifier(loaded(model), folder(0, 1, 2, from_names=True), folder(2, from_names=True))
    assert torch.equal(fitted(x), again(x))


def test_without_labels_to_train_on_the_classes_stay() -> None:
    model = Distilled()
    training = ImageFolder(Path("photos"), (Path("0.png"),), None)
    assert fit_classifier(loaded(model), training, folder(4))[0] is model
    with pytest.raises(PackQViTError, match="photos has the label 5, the model has 5 classes"):
        fit_classifier(loaded(model), training, folder(5))


def test_it_refuses() -> None:
    with pytest.raises(PackQViTError, match="micro does not end with one linear classifier"):
        fit_classifier(loaded(Distilled()), folder(0, 1), folder(0))
    with pytest.raises(PackQViTError, match="micro has no linear layer"):
        fit_classifier(loaded(nn.Flatten()), folder(0, 1), folder(0))
    with pytest.raises(PackQViTError, match="photos has the label 3, which no image of photos has"):
        fit_classifier(loaded(Model()), folder(0, 1), folder(3))
    with pytest.raises(PackQViTError, match="photos has the label 5, the model has 5 classes"):
        fit_classifier(loaded(Model()), folder(0, 5), folder(0))
