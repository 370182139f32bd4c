"""Calibration images of another kind than the program's are refused or warned about."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from packqvit_delegate import CalibrationError
from packqvit_delegate.calibration.images import check_images
from packqvit_delegate.data import Preprocessing, synthetic_images

IMAGENET = Preprocessing(32)
NORMALIZATION = (IMAGENET.mean, IMAGENET.std)
PIXELS = synthetic_images(16, 32)
RIGHT = IMAGENET.normalize(PIXELS)
HALF = (RIGHT.new_full((3,), 0.5).tolist(),) * 2


def said(caplog: pytest.LogCaptureFixture, images: Tensor, normalization: object) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        check_images([(image[None],) for image in images], normalization)  # type: ignore[arg-type]
    return caplog.text


@pytest.mark.parametrize("normalization", [NORMALIZATION, None])
def test_right_ones_pass_without_a_word(caplog: pytest.LogCaptureFixture, normalization: object) -> None:
    assert said(caplog, RIGHT, normalization) == ""
    assert said(caplog, RIGHT[:1], normalization) == ""
    assert said(caplog, RIGHT.double(), normalization) == ""


def test_pixels_from_0_to_1_pass_where_nothing_else_was_said(caplog: pytest.LogCaptureFixture) -> None:
    unit = PIXELS / 255
    assert said(caplog, unit, None) == ""
    assert said(caplog, unit, ((0.0,) * 3, (1.0,) * 3)) == ""


@pytest.mark.parametrize(
    ("images", "normalization", "what"),
    [
        (PIXELS / 255, NORMALIZATION, "from 0 to 1; .* from -2.12 .* to 2.64 .*: .* 0..1 that were never normalised"),
        (PIXELS / 255, HALF, "never normalised"),
        (PIXELS.float(), NORMALIZATION, "from 0 to 255; .* like bytes that were never normalised"),
        (IMAGENET.normalize(255 * RIGHT), NORMALIZATION, "what is beyond is cut off"),
        (RIGHT, HALF, "what is beyond is cut off"),
        (PIXELS / 127.5 - 1, NORMALIZATION, "as if normalised with other numbers"),
        (PIXELS.float(), None, "as bytes do"),
        (RIGHT[:1].repeat(8, 1, 1, 1), NORMALIZATION, "all 8 calibration images are the same one"),
        (torch.cat([RIGHT[:2], torch.zeros(6, 3, 32, 32)]), NORMALIZATION, "6 of 8 calibration images are constant"),
    ],
)
def test_others_are_warned_about(
    caplog: pytest.LogCaptureFixture, images: Tensor, normalization: object, what: str
) -> None:
    import re

    assert re.search(what, said(caplog, images, normalization))


@pytest.mark.parametrize("value", [0.0, 1.0, 255.0])
@pytest.mark.parametrize("normalization", [NORMALIZATION, None])
def test_constant_ones_are_refused(value: float, normalization: object) -> None:
    constant = torch.full((4, 3, 32, 32), value)
    constant[1] = 0.5
    constant[:, 1] += 0.25  # a colour
    with pytest.raises(CalibrationError, match="each of the 4 calibration images is constant"):
        check_images([(constant,)], normalization)  # type: ignore[arg-type]


def test_bytes_are_refused_where_normalised_pixels_are_expected() -> None:
    with pytest.raises(CalibrationError, match=r"tensor uint8 \[16, 3, 32, 32\], .*byte_input"):
        check_images([(PIXELS,)], NORMALIZATION)


def test_what_is_no_image_passes() -> None:
    check_images([(torch.zeros(4, 7, 16),)], None)
    check_images([(torch.zeros(4, 7, dtype=torch.int64),)], NORMALIZATION)
