"""Calibration data, cut to the batch size of the program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from ..errors import CalibrationError, PackQViTError
from ..inputs import plain

Batch = torch.Tensor | tuple[torch.Tensor, ...]

CHUNK = 16
"""Images that calibration runs at once where the program takes one."""


class Batches:
    """Calibration data cut to the batch size of the program; can be run over more than once."""

    def __init__(self, calibration: Iterable[Batch], example_inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(calibration, torch.Tensor):
            calibration = [calibration]
        batches = [batch if isinstance(batch, (tuple, list)) else (batch,) for batch in calibration]
        example_inputs, batches = plain(example_inputs), [plain(tuple(batch)) for batch in batches]
        self.size = example_inputs[0].shape[0]
        for batch in batches:
            _check_batch(batch, example_inputs)
        images = sum(batch[0].shape[0] for batch in batches)
        if images < self.size:
            raise CalibrationError(
                f"{images} calibration image(s) were given, but the program takes {self.size} at once; give a few "
                "dozen images that look like those of the application"
            )
        self._batches = batches
        self._length = images // self.size

    def chunks(self) -> list[tuple[torch.Tensor, ...]]:
        """The same images, more of them at once where the program takes one."""
        if self.size > 1:
            return list(self)
        joined = tuple(torch.cat(tensors) for tensors in zip(*self._batches, strict=True))
        return list(zip(*(tensor.split(CHUNK) for tensor in joined), strict=True))

    def first(self, images: int) -> Batches:
        """The first so many images, or one batch where that is more."""
        example = tuple(tensor[: self.size] for tensor in next(iter(self)))
        joined = tuple(torch.cat(tensors) for tensors in zip(*self._batches, strict=True))
        return Batches([tuple(tensor[: max(images, self.size)] for tensor in joined)], example)

    def joined(self) -> torch.Tensor:
        """All images of the first input, [N, ...].

        Raises:
            PackQViTError: The model takes more than one input.
        """
        if len(self._batches[0]) != 1:
            raise PackQViTError(
                f"tuning needs a model with one input, its images; this one has {len(self._batches[0])}"
            )
        return torch.cat([batch[0] for batch in self._batches])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        left: tuple[torch.Tensor, ...] | None = None
        for batch in self._batches:
            joined = batch if left is None else tuple(torch.cat(pair) for pair in zip(left, batch, strict=True))
            whole = joined[0].shape[0] // self.size * self.size
            for first in range(0, whole, self.size):
                yield tuple(tensor[first : first + self.size] for tensor in joined)
            left = tuple(tensor[whole:] for tensor in joined)


def _check_batch(batch: tuple[torch.Tensor, ...], example_inputs: tuple[torch.Tensor, ...]) -> None:
    if len(batch) != len(example_inputs):
        raise CalibrationError(f"a calibration batch has {len(batch)} tensors, the model takes {len(example_inputs)}")
    for tensor, example in zip(batch, example_inputs, strict=True):
        if tensor.shape[1:] != example.shape[1:] or tensor.dtype != example.dtype:
            raise CalibrationError(
                f"a calibration batch has {tensor.dtype} {tuple(tensor.shape[1:])} behind its first axis, the example "
                f"input {example.dtype} {tuple(example.shape[1:])}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CalibrationError("a calibration image holds NaN or infinite values")
