"""Calibration data, cut to the batch size of the program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..arguments import checked, shown
from ..errors import CalibrationError, PackQViTError
from ..inputs import plain

Batch = torch.Tensor | tuple[torch.Tensor, ...]

CHUNK = 16
"""Images that calibration runs at once where the program takes one."""


class Batches:
    """Calibration data cut to the batch size of the program; can be run over more than once."""

    @checked
    def __init__(self, calibration: Iterable[Batch], example_inputs: tuple[torch.Tensor, ...]) -> None:
        """Takes the data.

        Args:
            calibration: Batches, or one of them; an iterator is used up. Half and double precision becomes float32.
            example_inputs: Of the program.

        Raises:
            PackQViTError: One of both is of another kind, or they do not fit together.
        """
        check_example_inputs(example_inputs)
        example_inputs = plain(example_inputs)
        self.size = example_inputs[0].shape[0]
        self._batches = [_checked_batch(index, batch, example_inputs) for index, batch in enumerate(_each(calibration))]
        images = sum(batch[0].shape[0] for batch in self._batches)
        if images < self.size:
            used_up = "; an iterator is empty after its first use, a list is not"
            raise CalibrationError(
                f"{images} calibration image(s) were given, but the program takes {self.size} at once; give a few "
                "dozen images that look like those of the application"
                + (used_up if isinstance(calibration, Iterator) and not images else "")
            )
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


def check_example_inputs(example_inputs: tuple[torch.Tensor, ...]) -> None:
    """Refuses what cannot fix the shapes of a program.

    Raises:
        PackQViTError: It is no tuple of tensors, or one of them has no batch axis or no image.
    """
    if not isinstance(example_inputs, tuple):
        raise PackQViTError(
            f"example_inputs is {shown(example_inputs)}, but must be a tuple of tensors: for a model with one input "
            "(images[:1],)"
        )
    if not example_inputs:
        raise PackQViTError("example_inputs is an empty tuple; give one tensor for each input of the model")
    for index, example in enumerate(example_inputs):
        if not isinstance(example, torch.Tensor):
            raise PackQViTError(f"example_inputs[{index}] is {shown(example)}, but must be a tensor")
        if not example.numel() or not example.ndim:
            raise PackQViTError(
                f"example_inputs[{index}] is {shown(example)}; it has to hold as many images as the program shall take "
                "at once, at least one, along its first axis"
            )


def _each(calibration: Iterable[Batch]) -> Iterator[Any]:
    if isinstance(calibration, torch.Tensor):
        yield calibration
        return
    try:
        yield from calibration
    except PackQViTError:
        raise
    except Exception as error:  # the loader's own, whatever it is
        raise CalibrationError(f"calibration failed to give a batch: {type(error).__name__}: {error}") from error


def _checked_batch(index: int, batch: Any, example_inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """A batch as a tuple, one tensor for each input of the model."""
    name = f"calibration[{index}]"
    tensors = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        raise CalibrationError(
            f"{name} is {shown(batch)}, but must be a tensor of images [N, ...], or a tuple of tensors, one for each "
            "input of the model"
        )
    tensors = plain(tensors)
    if len(tensors) != len(example_inputs):
        labels = "; leave the labels away" if len(example_inputs) == 1 else ""
        raise CalibrationError(
            f"a calibration batch has {len(tensors)} tensors, the model takes {len(example_inputs)}{labels} ({name})"
        )
    for tensor, example in zip(tensors, example_inputs, strict=True):
        if tensor.shape[1:] != example.shape[1:] or tensor.dtype != example.dtype or not tensor.ndim:
            raise CalibrationError(
                f"a calibration batch has {tensor.dtype} {tuple(tensor.shape[1:])} behind its first axis, the example "
                f"input {example.dtype} {tuple(example.shape[1:])} ({name} is {shown(tensor)})"
            )
        if tensor.shape[0] != tensors[0].shape[0]:
            raise CalibrationError(
                f"{name} has {tensors[0].shape[0]} images in its first tensor, {tensor.shape[0]} in another"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CalibrationError(f"a calibration image holds NaN or infinite values ({name})")
    return tensors
