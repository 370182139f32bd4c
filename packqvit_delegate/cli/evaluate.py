"""`packqvit evaluate`: the top-1 accuracy of a .pte on a folder of images, through the ExecuTorch runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..errors import PackQViTError
from .console import command, console, facts, progress
from .options import (
    CPUS,
    CROP_HELP,
    LABELS_HELP,
    OLD_MEAN_HELP,
    OLD_MODEL_HELP,
    Processes,
    Std,
    check_program,
    check_weight_file,
    one_folder,
    preprocessing_of,
    published_preprocessing,
)
from .session import start

DATA_HELP = "Images: labels.csv (file,label), or one sub-folder a class."
WEIGHTS_HELP = "Of the float model: compare with it."


@command
def evaluate(
    program: Annotated[Path, typer.Argument(help="The .pte.")],
    folder: Annotated[Path | None, typer.Argument(help=f"{DATA_HELP} Or --data.")] = None,
    data: Annotated[Path | None, typer.Option(help=DATA_HELP)] = None,
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    model: Annotated[str | None, typer.Option(help=OLD_MODEL_HELP)] = None,
    mean: Annotated[str | None, typer.Option(help=OLD_MEAN_HELP)] = None,
    std: Std = None,
    crop_fraction: Annotated[float | None, typer.Option(help=CROP_HELP)] = None,
    labels: Annotated[Path | None, typer.Option(help=LABELS_HELP)] = None,
    images: Annotated[int | None, typer.Option(help="Evaluate this many, drawn at random.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    processes: Processes = CPUS,
) -> None:
    """Measure the top-1 accuracy of a .pte, which says itself how pictures are prepared."""
    check_program(program)
    check_weight_file(weights)
    data = one_folder(folder, data)
    start("Starting PyTorch and ExecuTorch")
    from .. import runtime
    from ..evaluation import image_size, open_labelled, predict_float, predict_program
    from ..models import load
    from .tables import describe

    info = runtime.load(program).info
    if info.task == "features":
        raise PackQViTError(f"{program} gives features, not classes: packqvit embeddings judges these")
    published = published_preprocessing(program, info, model, mean, std)
    size = image_size(program)
    preprocessing = preprocessing_of(program, info, published, size, model, mean, std, crop_fraction)
    images_folder = open_labelled(data, labels, images, seed)
    assert images_folder.labels is not None
    reference = None
    if weights is not None:
        name = model or info.model
        if name is None:
            raise PackQViTError("--weights needs --model, whose weights they are")
        float_model = load(name, weights).module
        reference = predict_float(float_model, images_folder, preprocessing, progress=progress)
    integer = predict_program(program, images_folder, preprocessing, processes, progress)
    table = facts()
    table.add_row("program", escape(str(program)))
    describe(table, integer, reference, images_folder.labels)
    console.print(table)
