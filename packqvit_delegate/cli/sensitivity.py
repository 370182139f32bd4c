"""`packqvit sensitivity`: which operator of a quantised model loses how much, which layers should have 8 bits.

With `--budget 15` it also searches the layers for which 8 bits help most while the weights grow by at most 15 %, and
writes them into a file that `packqvit export --mixed-precision` applies.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..files import check_writable
from . import options
from .console import command, console, errors, progress
from .session import start

IMAGES_HELP = "How many images to compare on; others than the calibration's where the folder has enough."
WIDE_HELP = "Percent of the blocks' multiply-accumulates that may move to 8-bit activations: no bytes, but time."


@command
def sensitivity(
    calibration: Annotated[Path, typer.Option(help="Folder of images like those of the application.")],
    bits: options.Bits = 4,
    activation_bits: options.ActivationBits = None,
    model: options.ModelName = "deit_tiny",
    weights: options.Weights = None,
    calibration_images: Annotated[int, typer.Option(help="How many to calibrate on.", min=1)] = 128,
    images: Annotated[int, typer.Option(help=IMAGES_HELP, min=1)] = 32,
    residual: options.Residual = None,
    probabilities: options.Probabilities = None,
    rounding: Annotated[Literal["gptq", "nearest"], typer.Option(help="Of the weights.")] = "gptq",
    features: Annotated[bool, typer.Option("--features", help="Leave the classifier out.")] = False,
    mixed_precision: Annotated[Path | None, typer.Option(help="Widths of single layers, written by --budget.")] = None,
    budget: Annotated[float | None, typer.Option(help="Search a mix: percent of growth.", min=0, max=100)] = None,
    wide_macs: Annotated[float, typer.Option(help=WIDE_HELP, min=0, max=100)] = 25,
    mix: Annotated[Path, typer.Option(help="Where --budget writes what it found.")] = Path("mixed_precision.json"),
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw the report: .png, .svg or .pdf.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
) -> None:
    """Compare the integer graph with the float model, operator by operator."""
    options.check_weight_file(weights)
    check_writable(json, mix if budget is not None else None)
    start("Starting PyTorch and ExecuTorch")
    from ..calibration import CalibrationMethod
    from ..calibration.batches import Batches
    from ..data import ImageFolder
    from ..models import load, without_classifier
    from ..pictures import check_picture
    from ..sensitivity import (
        SEARCH_IMAGES,
        Limits,
        MixedPrecision,
        block_table,
        closeness,
        make_pair,
        measure,
        plot,
        suggest_for,
        worst_table,
    )
    from .export_steps import read_images
    from .sensitivity_steps import steps_table

    config = options.configuration(bits, activation_bits, residual, probabilities)
    if mixed_precision is not None:
        config = MixedPrecision.load(mixed_precision).apply(config)
    if picture is not None:
        check_picture(picture)
    folder = ImageFolder.open(calibration)
    drawn = folder.sample(min(len(folder), calibration_images + images), seed)

    errors.print(f"Loading {model}")
    loaded = load(model, weights, progress=progress)
    if features and loaded.task != "features":
        loaded = without_classifier(loaded)
    preprocessing = loaded.preprocessing
    config = dataclasses.replace(config, input_normalization=(tuple(preprocessing.mean), tuple(preprocessing.std)))
    pictures = read_images(drawn, preprocessing)
    example, method = (pictures[:1],), CalibrationMethod(rounding=rounding)
    batches = Batches(pictures[:calibration_images].split(16), example)
    compared = Batches(pictures[-images:], example)

    pair = make_pair(loaded.module, example, batches, config, method, progress)
    found = None
    if budget is not None:
        limits = Limits(budget / 100, wide_macs / 100)
        found = suggest_for(pair, batches.first(SEARCH_IMAGES), limits, progress)
        found.save(mix)
    report = measure(pair.reference, pair.to_integer(), compared, progress)
    console.print(block_table(report), block_table(report, "own_snr"), worst_table(report))
    if json is not None:
        report.save(json)
    if picture is not None:
        plot(report, picture, f"{loaded.name} W{config.weight_bits}A{config.activation_bits}")
    table = Table("", "answers", title=f"on {report.images} images")
    table.add_row("as calibrated", closeness(report))
    if found is not None:
        console.print(steps_table(found))
        mixed = make_pair(loaded.module, example, batches, found.apply(config), method, progress)
        table.add_row("with the mix", closeness(measure(mixed.reference, mixed.to_integer(), compared, progress)))
    console.print(table)
    if found is not None:
        console.print(f"packqvit export --mixed-precision {escape(str(mix))} applies the mix", highlight=False)
