"""Interrupts and resumes a training to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Protocol

import torch

from ..errors import PackQViTError
from ..files import replacing
from .method import TrainingMethod


class Stateful(Protocol):
    """What PyTorch's models, optimisers and schedules have in common."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Takes a state."""
        ...


def save(path: Path, step: int, method: TrainingMethod, parts: dict[str, Stateful]) -> None:
    """Writes a checkpoint, or leaves the older one whole.

    Args:
        path: The file.
        step: Steps that are done.
        method: Of the training.
        parts: Everything that has a state, by name.
    """
    content: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
    content |= {"step": step, "method": dataclasses.asdict(method), "random": torch.get_rng_state()}
    if torch.cuda.is_available():
        content["random_cuda"] = torch.cuda.get_rng_state_all()
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(content, file)


def load(path: Path, method: TrainingMethod, parts: dict[str, Stateful]) -> int:
    """Takes everything from a checkpoint.

    Args:
        path: Of `save`.
        method: Of the training that goes on; has to be that of the checkpoint.
        parts: As for `save`.

    Returns:
        Steps that are done.

    Raises:
        PackQViTError: The file cannot be read, or is of another training or model.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        step, saved = int(content["step"]), dataclasses.asdict(TrainingMethod()) | content["method"]
    except Exception as error:  # unpickling raises many kinds
        first_line = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        raise PackQViTError(f"cannot read the checkpoint {path}: {first_line}; delete it to start anew") from error
    wanted = dataclasses.asdict(method)
    different = [name for name in wanted if saved[name] != wanted[name]]
    if different:
        name = different[0]
        raise PackQViTError(
            f"the checkpoint {path} was trained with {name} {saved.get(name)!r}, not {wanted[name]!r}; resume with the "
            "same method, or delete it to start anew"
        )
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
    except (RuntimeError, KeyError, ValueError) as error:
        first_line = str(error).strip().split("\n", 1)[0]
        raise PackQViTError(
            f"the checkpoint {path} is of another model: {first_line}; prepare the same model, or delete it"
        ) from error
    torch.set_rng_state(content["random"])
    if "random_cuda" in content and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(content["random_cuda"])
    return step
