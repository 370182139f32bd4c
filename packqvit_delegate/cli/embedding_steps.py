"""What `packqvit embeddings` compares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from ..data import ImageFolder, Preprocessing
from ..embeddings import cosine_similarity, nearest_neighbours, signal_to_noise, vote
from ..errors import PackQViTError
from ..evaluation import run_float, run_program
from ..progress import Progress


@dataclasses.dataclass(frozen=True)
class Embeddings:
    """Of the images of a folder.

    Attributes:
        integer: float32 [n, C], of the program.
        real: float32 [n, C], of the float model.
        labels: int64 [n], or None.
    """

    integer: Tensor
    real: Tensor
    labels: Tensor | None

    @classmethod
    def of(
        cls,
        program: Path,
        model: nn.Module,
        folder: ImageFolder,
        preprocessing: Preprocessing,
        processes: int,
        progress: Progress,
    ) -> Embeddings:
        """Runs every image through both; of several outputs the first counts.

        Raises:
            PackQViTError: They do not give the same.
        """
        integer = run_program(program, folder, preprocessing, processes, progress)[0]
        real = torch.cat(list(run_float(model, folder, preprocessing, progress=progress)))
        if integer.shape != real.shape or not integer.is_floating_point():
            raise PackQViTError(
                f"{program} gives {str(integer.dtype).removeprefix('torch.')} {list(integer.shape[1:])} for an image, "
                f"the model float32 {list(real.shape[1:])}: export the model without its classifier (--features)"
            )
        labels = None if folder.labels is None else torch.tensor(folder.labels)
        return cls(integer.flatten(1), real.flatten(1), labels)


def describe(table: Table, queries: Embeddings, gallery: Embeddings | None, neighbours: int) -> None:
    """Adds the rows that tell how close a program's embeddings are to the float model's, and what they find."""
    for name, value in figures(queries, gallery, neighbours):
        table.add_row(name, value)


def figures(queries: Embeddings, gallery: Embeddings | None, neighbours: int) -> list[tuple[str, str]]:
    """Names and values of these rows."""
    cosine = cosine_similarity(queries.integer, queries.real)
    searched, alone = (queries, True) if gallery is None else (gallery, False)
    found = {
        name: nearest_neighbours(getattr(queries, name), getattr(searched, name), neighbours, skip_self=alone)
        for name in ("real", "integer")
    }
    same = int((found["real"][:, 0] == found["integer"][:, 0]).sum())
    rows = [
        ("cosine to float", f"{cosine.mean():.4f} (least {cosine.min():.4f})"),
        ("signal to noise", f"{signal_to_noise(queries.integer, queries.real):.1f} dB"),
        ("same nearest neighbour", _share(same, len(cosine))),
    ]
    if queries.labels is not None and searched.labels is not None:
        for name, title in (("real", "float"), ("integer", "integer")):
            right = int((vote(found[name], searched.labels) == queries.labels).sum())
            rows.append((f"{neighbours}-NN top-1 {title}", _share(right, len(cosine))))
    return rows


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.2f} % ({count} / {total})"
