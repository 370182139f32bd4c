"""`packqvit embeddings`: judges the .pte of an image tower by its embeddings, through the ExecuTorch runtime.

Embeddings are compared with the float model's, and what they find with what the float model's find: their nearest
neighbours, and the classes of these, among the images of --gallery or, without one, the other images of the folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..errors import PackQViTError
from .console import command, console, errors, facts, progress
from .options import (
    CPUS,
    MODEL_HELP,
    Mean,
    Processes,
    Std,
    check_program,
    check_weight_file,
    one_folder,
    preprocessing_of,
    with_normalization,
)
from .session import start

NEIGHBOURS = 10
GALLERY_HELP = "Images to search in, laid out like the others; default: the other images of the folder."


@command
def embeddings(
    program: Annotated[Path, typer.Argument(help="The .pte.")],
    folder: Annotated[Path | None, typer.Argument(help="Images, with or without labels; or --data.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of images, with or without labels.")] = None,
    model: Annotated[str | None, typer.Option(help=f"Default: as the program says. {MODEL_HELP}")] = None,
    weights: Annotated[str | None, typer.Option(help="That the program was made of; default: from the hub.")] = None,
    mean: Mean = None,
    std: Std = None,
    gallery: Annotated[Path | None, typer.Option(help=GALLERY_HELP)] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names in label order, for class folders.")] = None,
    neighbours: Annotated[int, typer.Option(help="That vote for a class.", min=1)] = NEIGHBOURS,
    processes: Processes = CPUS,
) -> None:
    """Judge the embeddings of a .pte by those of the float model."""
    check_program(program)
    check_weight_file(weights)
    data = one_folder(folder, data)
    start("Starting PyTorch and ExecuTorch")
    from .. import runtime
    from ..data import ImageFolder, read_class_names
    from ..evaluation import image_size
    from ..models import load, without_classifier
    from .embedding_steps import Embeddings, describe

    names = read_class_names(labels) if labels else None
    folders = [ImageFolder.open(path, names) for path in (data, gallery) if path is not None]
    info, size = runtime.load(program).info, image_size(program)
    model = model or info.model
    if model is None:
        raise PackQViTError(f"{program} does not say which model it was made of: add --model")
    errors.print(f"Loading {model}", markup=False, highlight=False)
    tower = with_normalization(load(model, weights, progress=progress), mean, std)
    tower = tower if tower.task == "features" else without_classifier(tower)
    preprocessing = preprocessing_of(program, info, tower.preprocessing, size, model, mean, std, None)
    found = [Embeddings.of(program, tower.module, images, preprocessing, processes, progress) for images in folders]
    table = facts()
    table.add_row("program", escape(str(program)))
    describe(table, found[0], found[1] if gallery is not None else None, neighbours)
    console.print(table)
