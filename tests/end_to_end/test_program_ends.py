"""Bytes in and best classes out: what cannot be had is refused with the reason."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import MICRO, plain_model
from packqvit_delegate import PackQViTError, export, preparation
from packqvit_delegate.data import Preprocessing, synthetic_images
from packqvit_delegate.passes import take_bytes

PREPROCESSING = Preprocessing(MICRO["image"])
IMAGES = PREPROCESSING.normalize(synthetic_images(2, MICRO["image"]))
NORMALIZATION = (PREPROCESSING.mean, PREPROCESSING.std)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"byte_input": "hwc"}, "byte_input needs input_normalization"),
        ({"byte_input": "nchw", "input_normalization": NORMALIZATION}, "'hwc', 'chw' or None"),
        ({"top_k": 0}, "top_k is 0, but must be at least 1"),
        ({"top_k": 11}, r"top_k is 11, but must lie in \[1, 10\]"),
    ],
)
def test_refused_ahead_of_the_calibration(options, reason, monkeypatch):
    def calibrate(*args):
        raise AssertionError("calibration was begun")

    monkeypatch.setattr(preparation, "calibrate", calibrate)
    with pytest.raises(PackQViTError, match=reason):
        export(plain_model(), (IMAGES[:1],), IMAGES, **options)


def test_other_means_than_the_calibrated_ones():
    program = export(plain_model(), (IMAGES[:1],), IMAGES, input_normalization=NORMALIZATION)
    with pytest.raises(PackQViTError, match="codes of the image are not its bytes"):
        take_bytes(program.integer_module, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), channels_last=True)


def test_grey_images_of_one_normalisation():
    model = plain_model()
    model.patch = nn.Conv2d(1, MICRO["dim"], MICRO["patch"], MICRO["patch"])
    pixels = synthetic_images(2, MICRO["image"])[:, :1]
    images = (pixels.float() / 255 - 0.5) / 0.5
    options = {"bits": 8, "input_normalization": ((0.5,), (0.5,))}
    expected = export(model, (images[:1],), images, **options).integer_module(images[:1])
    actual = export(model, (images[:1],), images, byte_input="hwc", **options).integer_module(
        pixels[:1].permute(0, 2, 3, 1)
    )
    assert torch.equal(torch.as_tensor(actual), torch.as_tensor(expected))


class TwoHeads(nn.Module):
    """Gives the logits and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain_model()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(x)
        return logits, logits.mean(1)


def test_top_k_of_two_outputs():
    with pytest.raises(PackQViTError, match="top_k needs a model whose one output is the logits"):
        export(TwoHeads().eval(), (IMAGES[:1],), IMAGES, top_k=3)
