"""`packqvit run`: what a .pte sees in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ..errors import PackQViTError
from .console import command, console
from .options import (
    CROP_HELP,
    LABELS_HELP,
    OLD_MEAN_HELP,
    OLD_MODEL_HELP,
    THREADS_HELP,
    TIER_HELP,
    Std,
    check_program,
    class_names,
    preprocessing_of,
    published_preprocessing,
)
from .session import start


@command
def run(
    program: Annotated[Path, typer.Argument(help="The .pte.")],
    pictures: Annotated[list[Path], typer.Argument(help="JPEG, PNG, WebP or whatever else Pillow reads.")],
    top: Annotated[int, typer.Option(help="Classes to show.", min=1)] = 5,
    labels: Annotated[Path | None, typer.Option(help=f"For programs without names: {LABELS_HELP}")] = None,
    model: Annotated[str | None, typer.Option(help=OLD_MODEL_HELP)] = None,
    mean: Annotated[str | None, typer.Option(help=OLD_MEAN_HELP)] = None,
    std: Std = None,
    crop_fraction: Annotated[float | None, typer.Option(help=CROP_HELP)] = None,
    threads: Annotated[int | None, typer.Option(help=THREADS_HELP, min=1)] = None,
    tier: Annotated[str | None, typer.Option(help=TIER_HELP)] = None,
) -> None:
    """Show the best classes of pictures."""
    check_program(program)
    for path in pictures:
        if not path.is_file():
            raise PackQViTError(f"there is no picture {path}")
    start("Starting ExecuTorch")
    import dataclasses

    from .. import runtime
    from ..evaluation import image_size

    loaded = runtime.load(program, threads=threads, tier=tier)
    info = loaded.info
    published = published_preprocessing(program, info, model, mean, std)
    size = image_size(program)
    preprocessing = preprocessing_of(program, info, published, size, model, mean, std, crop_fraction)
    names = class_names(labels, info)
    loaded.info = dataclasses.replace(info, preprocessing=preprocessing, class_names=names)
    for path in pictures:
        guesses = loaded.predict(path, top)
        has_share = guesses[0].probability is not None
        has_name = any(guess.name for guess in guesses)
        table = Table("class", *(["name"] if has_name else []), "probability" if has_share else "score")
        for guess in guesses:
            share = f"{guess.score:.3f}" if guess.probability is None else f"{100 * guess.probability:.1f} %"
            table.add_row(str(guess.index), *([escape(guess.name or "")] if has_name else []), share)
        console.print(escape(str(path)), soft_wrap=True)
        console.print(table)
