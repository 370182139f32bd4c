"""Tells which operator of a quantised Vision Transformer loses how much, and which layers should have 8 bits.

    python examples/sensitivity.py --bits 4 --model deit_tiny --calibration photos --plot losses.png

With `--budget 15` it also searches the layers for which 8 bits help most while the weights grow by at most 15 %, and
writes them into a file that `export_deit.py --mixed-precision` applies.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from configuration import MODEL_HELP, configuration
from console import command, console, errors, progress, size
from packqvit_delegate import CalibrationMethod
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.data import ImageFolder, Preprocessing
from packqvit_delegate.files import check_writable
from packqvit_delegate.models import load, without_classifier
from packqvit_delegate.pictures import check_picture
from packqvit_delegate.sensitivity import (
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

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

IMAGES_HELP = "How many images to compare on; others than the calibration's where the folder has enough."
WIDE_HELP = "Percent of the blocks' multiply-accumulates that may move to 8-bit activations: no bytes, but time."


@app.command()
@command
def main(
    calibration: Annotated[Path, typer.Option(help="Folder of images like those of the application.")],
    bits: Annotated[int, typer.Option(help="Of the weights, and of the activations too unless given: 4 or 8.")] = 4,
    activation_bits: Annotated[int | None, typer.Option(help="Of the activations: 4 or 8.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "deit_tiny",
    weights: Annotated[str | None, typer.Option(help="A .safetensors or .pth file; default: from the hub.")] = None,
    features: Annotated[bool, typer.Option("--features", help="Leave the classifier out.")] = False,
    calibration_images: Annotated[int, typer.Option(help="How many to calibrate on.", min=1)] = 128,
    images: Annotated[int, typer.Option(help=IMAGES_HELP, min=1)] = 32,
    residual: Annotated[Literal["int8", "int16"] | None, typer.Option(help="Residual stream.")] = None,
    probabilities: Annotated[Literal["log2", "linear"] | None, typer.Option(help="Attention probabilities.")] = None,
    rounding: Annotated[Literal["gptq", "nearest"], typer.Option(help="Of the weights.")] = "gptq",
    mixed_precision: Annotated[Path | None, typer.Option(help="Widths of single layers, written by --budget.")] = None,
    budget: Annotated[float | None, typer.Option(help="Search a mix: percent of growth.", min=0, max=100)] = None,
    wide_macs: Annotated[float, typer.Option(help=WIDE_HELP, min=0, max=100)] = 25,
    mix: Annotated[Path, typer.Option(help="Where --budget writes what it found.")] = Path("mixed_precision.json"),
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw the report: .png, .svg or .pdf.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
) -> None:
    """Compares the integer graph with the float model, operator by operator."""
    config = configuration(bits, activation_bits, residual, probabilities)
    if mixed_precision is not None:
        config = MixedPrecision.load(mixed_precision).apply(config)
    check_writable(json, mix if budget is not None else None)
    if picture is not None:
        check_picture(picture)
    folder = ImageFolder.open(calibration)
    drawn = folder.sample(min(len(folder), calibration_images + images), seed)

    errors.print(f"Loading {model}")
    loaded = without_classifier(load(model, weights)) if features else load(model, weights)
    preprocessing = loaded.preprocessing
    config = dataclasses.replace(config, input_normalization=(tuple(preprocessing.mean), tuple(preprocessing.std)))
    pictures = _read(drawn, preprocessing)
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
        console.print(_steps(found))
        mixed = make_pair(loaded.module, example, batches, found.apply(config), method, progress)
        table.add_row("with the mix", closeness(measure(mixed.reference, mixed.to_integer(), compared, progress)))
    console.print(table)
    if found is not None:
        console.print(f"export_deit.py --mixed-precision {escape(str(mix))} applies the mix", highlight=False)


def _read(folder: ImageFolder, preprocessing: Preprocessing) -> Tensor:
    batches = progress(folder.batches(1, preprocessing), "reading images", len(folder))
    return torch.cat([batch.images for batch in batches])


def _steps(found: MixedPrecision) -> Table:
    known = found.facts
    names = {"weight_bits": "weights", "activation_bits": "output"}
    table = Table(
        "8 bits for",
        "of",
        "bytes",
        "multiply-accumulates",
        f"loss alone, {known['loss']['unit']}",
        title="most use for its cost first",
    )
    for layer in known["layers"]:
        extra = f"+{size(layer['extra_bytes'])}" if layer["extra_bytes"] else ""
        share = f"{100 * layer['macs'] / known['macs_of_linear_layers']:.1f} %" if layer["macs"] else ""
        table.add_row(names[layer["field"]], escape(layer["layer"]), extra, share, f"{layer['loss_alone']:.4f}")
    before, after = known["weight_bytes"]["before"], known["weight_bytes"]["after"]
    wide = known["macs_at_8_bit_activations"]["after"] / known["macs_of_linear_layers"]
    loss = f"{known['loss']['before']:.3f} -> {known['loss']['after']:.3f}"
    table.add_row("in all", "", f"+{100 * (after / before - 1):.1f} %", f"{100 * wide:.1f} %", loss)
    return table


if __name__ == "__main__":
    app()
