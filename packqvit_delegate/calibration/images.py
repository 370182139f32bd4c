"""Whether calibration images are what the model will see: pictures that differ, normalised as the program expects."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import torch

from ..arguments import shown
from ..errors import CalibrationError

logger = logging.getLogger(__name__)

_OUTSIDE = 0.02
"""Pixels so far below black or above white still are pixels: what resampling overshoots."""
_MANY_OUTSIDE = 0.01
_BRIGHTEST_FLOAT = 16.0
"""Normalised pixels end far below this, at 2.7 with ImageNet's mean and std."""
_LEAST_SPAN = 0.6
_ENOUGH_TO_SPAN = 8
"""So many photographs go from nearly black to nearly white."""


class _Seen:
    """What there is to say about images [N, C, H, W]."""

    def __init__(self, channels: int) -> None:
        self.images = self.constant = self.values = 0
        self.alike = True
        self.low, self.high = torch.full((channels,), torch.inf), torch.full((channels,), -torch.inf)
        self.outside = 0
        self._first: torch.Tensor | None = None

    def add(self, x: torch.Tensor, pixel: torch.Tensor | None) -> None:
        """Takes images, and as shares of white what their values stand for."""
        if self._first is None:
            self._first = x[0]
        self.images += len(x)
        self.values += x.numel()
        self.alike = self.alike and bool((x == self._first).all())
        low, high = x.amin((2, 3)), x.amax((2, 3))
        self.constant += int((low == high).all(1).sum())
        self.low, self.high = torch.minimum(self.low, low.amin(0)), torch.maximum(self.high, high.amax(0))
        if pixel is not None:
            self.outside += int(((pixel < -_OUTSIDE) | (pixel > 1 + _OUTSIDE)).sum())


def check_images(
    batches: Iterable[tuple[torch.Tensor, ...]], normalization: tuple[Sequence[float], Sequence[float]] | None
) -> None:
    """Refuses images that no range can be taken from, and warns about those that do not look like the application's.

    Inputs that are no images, float [N, C, H, W], pass.

    Args:
        batches: Calibration data; the first input is looked at.
        normalization: (mean, std) per channel that the images are said to be normalised with, as QuantizationConfig's.

    Raises:
        CalibrationError: All images are constant, or they are bytes where normalised pixels are expected.
    """
    seen: _Seen | None = None
    scale = None
    for x, *_ in batches:
        if x.ndim != 4:
            return
        if not x.is_floating_point():
            if normalization is None:
                return
            raise CalibrationError(
                f"a calibration batch is {shown(x)}, but with input_normalization the model takes normalised pixels: "
                "give (byte / 255 - mean) / std in float32. byte_input='hwc' makes the program take the bytes"
            )
        if normalization is not None and len(normalization[0]) == x.shape[1]:
            mean, std = (torch.tensor(tuple(v), dtype=torch.float32)[:, None, None] for v in normalization)
            scale = mean, std
        seen = seen or _Seen(x.shape[1])
        seen.add(x.float(), None if scale is None else x.float() * scale[1] + scale[0])
    if seen is None:
        return
    _check_content(seen)
    if scale is None:
        _check_range(seen)
    else:
        _check_normalization(seen, *(values.flatten() for values in scale))


def _check_content(seen: _Seen) -> None:
    if seen.constant == seen.images:
        raise CalibrationError(
            f"each of the {seen.images} calibration images is constant, one value in all of a channel's pixels "
            f"({_range(seen)}): no range can be taken from them; give images like those of the application"
        )
    if seen.images > 1 and seen.alike:
        logger.warning("all %d calibration images are the same one: give different ones", seen.images)
    elif 2 * seen.constant > seen.images:
        logger.warning("%d of %d calibration images are constant, without any content", seen.constant, seen.images)


def _check_range(seen: _Seen) -> None:
    """Nobody has said how images are normalised."""
    if float(seen.low.min()) >= 0 and float(seen.high.max()) > _BRIGHTEST_FLOAT:
        logger.warning(
            "the calibration images go %s, as bytes do that were never normalised: where the model does not do that "
            "itself, normalise them, and say how with input_normalization=(mean, std)",
            _range(seen),
        )


def _check_normalization(seen: _Seen, mean: torch.Tensor, std: torch.Tensor) -> None:
    low, high = float((seen.low * std + mean).min()), float((seen.high * std + mean).max())
    is_unit = float(seen.low.min()) >= 0 and float(seen.high.max()) <= 1 + 1e-3
    black = float((-mean / std).min())
    if is_unit and black < -0.1:
        guess = "they look like pixels in 0..1 that were never normalised"
    elif seen.outside > _MANY_OUTSIDE * seen.values:
        is_bytes = float(seen.low.min()) >= 0 and float(seen.high.max()) > _BRIGHTEST_FLOAT
        guess = "they look like bytes that were never normalised" if is_bytes else "what is beyond is cut off"
    elif high - low < _LEAST_SPAN and seen.images >= _ENOUGH_TO_SPAN:
        guess = "they look as if normalised with other numbers, or of very little contrast"
    else:
        return
    white = float(((1 - mean) / std).max())
    logger.warning(
        "the calibration images go %s; normalised with mean %s and std %s, pictures go from %.3g (black) to %.3g "
        "(white): %s",
        _range(seen),
        [round(float(value), 4) for value in mean],
        [round(float(value), 4) for value in std],
        black,
        white,
        guess,
    )


def _range(seen: _Seen) -> str:
    return f"from {float(seen.low.min()):.3g} to {float(seen.high.max()):.3g}"
