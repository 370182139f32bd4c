"""Judges the .pte of an image tower by its embeddings, through the ExecuTorch runtime.

    python examples/export_deit.py --model vit_tiny --features --calibration photos
    python examples/embeddings.py vit_tiny_w4a4.pte --model vit_tiny --weights vit_tiny.safetensors --data photos

Embeddings are compared with the float model's, and what they find with what the float model's find: their nearest
neighbours, and the classes of these, among the images of --gallery or, without one, the other images of --data.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from configuration import MEAN_HELP, MODEL_HELP, STD_HELP, with_normalization
from console import command, console, facts
from evaluate import image_size, run_float, run_program
from packqvit_delegate.data import ImageFolder, Preprocessing, read_class_names
from packqvit_delegate.embeddings import cosine_similarity, nearest_neighbours, signal_to_noise, vote
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import load, without_classifier

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

NEIGHBOURS = 10
GALLERY_HELP = "Images to search in, laid out like those of --data; default: the other images of --data."


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
        cls, program: Path, model: nn.Module, folder: ImageFolder, preprocessing: Preprocessing, processes: int
    ) -> Embeddings:
        """Runs every image through both; of several outputs the first counts.

        Raises:
            PackQViTError: They do not give the same.
        """
        integer = run_program(program, folder, preprocessing, processes)[0]
        real = torch.cat(list(run_float(model, folder, preprocessing)))
        if integer.shape != real.shape or not integer.is_floating_point():
            raise PackQViTError(
                f"{program} gives {str(integer.dtype).removeprefix('torch.')} {list(integer.shape[1:])} for an image, "
                f"the model float32 {list(real.shape[1:])}: export the model without its classifier (--features)"
            )
        labels = None if folder.labels is None else torch.tensor(folder.labels)
        return cls(integer.flatten(1), real.flatten(1), labels)


def describe(table: Table, queries: Embeddings, gallery: Embeddings | None, neighbours: int) -> None:
    """Adds the rows that tell how close a program's embeddings are to the float model's, and what they find."""
    cosine = cosine_similarity(queries.integer, queries.real)
    table.add_row("cosine to float", f"{cosine.mean():.4f} (least {cosine.min():.4f})")
    table.add_row("signal to noise", f"{signal_to_noise(queries.integer, queries.real):.1f} dB")
    searched, alone = (queries, True) if gallery is None else (gallery, False)
    found = {
        name: nearest_neighbours(getattr(queries, name), getattr(searched, name), neighbours, skip_self=alone)
        for name in ("real", "integer")
    }
    same = int((found["real"][:, 0] == found["integer"][:, 0]).sum())
    table.add_row("same nearest neighbour", _share(same, len(cosine)))
    if queries.labels is None or searched.labels is None:
        return
    for name, title in (("real", "float"), ("integer", "integer")):
        right = int((vote(found[name], searched.labels) == queries.labels).sum())
        table.add_row(f"{neighbours}-NN top-1 {title}", _share(right, len(cosine)))


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.2f} % ({count} / {total})"


@app.command()
@command
def main(
    program: Annotated[Path, typer.Argument(help="The .pte.")],
    data: Annotated[Path, typer.Option(help="Folder of images, with or without labels.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "vit_tiny",
    weights: Annotated[str | None, typer.Option(help="That the program was made of; default: from the hub.")] = None,
    mean: Annotated[str | None, typer.Option(help=MEAN_HELP)] = None,
    std: Annotated[str | None, typer.Option(help=STD_HELP)] = None,
    gallery: Annotated[Path | None, typer.Option(help=GALLERY_HELP)] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names in label order, for class folders.")] = None,
    neighbours: Annotated[int, typer.Option(help="That vote for a class.", min=1)] = NEIGHBOURS,
    processes: Annotated[int, typer.Option(help="Processes to run in.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Judges the embeddings of a .pte by those of the float model."""
    if not program.is_file():
        raise PackQViTError(f"there is no file {program}")
    names = read_class_names(labels) if labels else None
    folders = [ImageFolder.open(path, names) for path in (data, gallery) if path is not None]
    tower = without_classifier(with_normalization(load(model, weights), mean, std))
    preprocessing = dataclasses.replace(tower.preprocessing, size=image_size(program))
    found = [Embeddings.of(program, tower.module, folder, preprocessing, processes) for folder in folders]
    table = facts()
    table.add_row("program", escape(str(program)))
    describe(table, found[0], found[1] if gallery is not None else None, neighbours)
    console.print(table)


if __name__ == "__main__":
    app()
