"""Turns a trained Vision Transformer and some images into a .pte that runs in integers only.

    python examples/export_deit.py --bits 4 --model deit_tiny --calibration photos --evaluate imagenet/val

`--bits 4` is W4A4 (4-bit weights and activations), `--bits 4 --activation-bits 8` W4A8, `--bits 8` W8A8.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from configuration import MEAN_HELP, MODEL_HELP, STD_HELP, configuration, with_normalization
from console import command, console, errors, facts, progress, size
from embeddings import NEIGHBOURS, Embeddings
from embeddings import describe as describe_embeddings
from evaluate import describe, open_images, predict_float, predict_program, require_labels
from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig, TuningMethod, export, runtime
from packqvit_delegate.data import ImageFolder, Preprocessing, synthetic_images
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.files import check_writable
from packqvit_delegate.models import RANDOM, LoadedModel, file_stem, load, without_classifier
from packqvit_delegate.sensitivity import Limits, MixedPrecision, suggest

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

WEIGHTS_HELP = f"A .safetensors or .pth file; `{RANDOM}`; default: from the hub, else random."
MIX_HELP = "A file of widths of single layers, as examples/sensitivity.py writes it."
BUDGET_HELP = "Search the layers that need 8 bits most; the weights grow by at most so many percent."
WIDE_HELP = "With --budget: percent of the blocks' multiply-accumulates that may move to 8-bit activations."
CLIPPING_HELP = "Ranges end where the error is least, or at the extremes."
SHIFT_HELP = "With --residual int8: the largest power of two by which channels differ."
COMPENSATION_HELP = "Layers with weights of 4 bits make up for a part of the errors before them."
IMPORTANCE_HELP = "Errors in a token count by what they cost the answer."
SPLIT_HELP = "Hidden channels with massive activations become several that saturate."
ROTATION_HELP = "Mix channels by rotations; default: where weights or activations have 4 bits."
TUNE_HELP = "Train the calibrated model to answer like the float one, without labels: minutes, many points at 4 bits."
DEVICE_HELP = "With --tune: cpu or cuda; default: a GPU where PyTorch finds one."
CALIBRATION_IMAGES_HELP = "How many of them; default: 128, with --tune 512."
FALLBACK_HELP = "Which backend gets what stays in float; default: ExecuTorch's own kernels."
FEATURES_HELP = (
    "Leave the classifier out: the program gives what it reads. With --evaluate, see examples/embeddings.py."
)
INPUT_HELP = "float: normalised images; uint8: RGB bytes, the same results without any float on the way in."


@app.command()
@command
def main(
    bits: Annotated[int, typer.Option(help="Of the weights, and of the activations too unless given: 4 or 8.")] = 4,
    activation_bits: Annotated[int | None, typer.Option(help="Of the activations: 4 or 8.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "deit_tiny",
    weights: Annotated[str | None, typer.Option(help=WEIGHTS_HELP)] = None,
    mean: Annotated[str | None, typer.Option(help=MEAN_HELP)] = None,
    std: Annotated[str | None, typer.Option(help=STD_HELP)] = None,
    calibration: Annotated[Path | None, typer.Option(help="Folder of images like those of the application.")] = None,
    calibration_images: Annotated[int | None, typer.Option(help=CALIBRATION_IMAGES_HELP, min=1)] = None,
    features: Annotated[bool, typer.Option("--features", help=FEATURES_HELP)] = False,
    evaluate: Annotated[Path | None, typer.Option(help="Folder of images with labels.")] = None,
    evaluate_images: Annotated[int | None, typer.Option(help="How many of them; default: all.", min=1)] = None,
    labels: Annotated[Path | None, typer.Option(help="Class names in label order, for class folders.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: <model>_w<bits>a<bits>.pte.")] = None,
    residual: Annotated[Literal["int8", "int16"] | None, typer.Option(help="Residual stream.")] = None,
    probabilities: Annotated[Literal["log2", "linear"] | None, typer.Option(help="Attention probabilities.")] = None,
    max_channel_shift: Annotated[int | None, typer.Option(help=SHIFT_HELP, min=0, max=7)] = None,
    clipping: Annotated[bool, typer.Option(help=CLIPPING_HELP)] = True,
    rounding: Annotated[Literal["gptq", "nearest"], typer.Option(help="Of the weights.")] = "gptq",
    compensation: Annotated[bool, typer.Option(help=COMPENSATION_HELP)] = True,
    token_importance: Annotated[bool, typer.Option(help=IMPORTANCE_HELP)] = True,
    split_outliers: Annotated[bool, typer.Option(help=SPLIT_HELP)] = True,
    rotation: Annotated[bool | None, typer.Option(help=ROTATION_HELP)] = None,
    tune: Annotated[bool, typer.Option("--tune", help=TUNE_HELP)] = False,
    tune_images: Annotated[int, typer.Option(help="With --tune: images of --calibration to train on.", min=1)] = 1000,
    tune_steps: Annotated[int, typer.Option(help="With --tune: steps of 16 images.", min=1)] = TuningMethod.steps,
    tune_device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    mixed_precision: Annotated[Path | None, typer.Option(help=MIX_HELP)] = None,
    budget: Annotated[float | None, typer.Option(help=BUDGET_HELP, min=0, max=100)] = None,
    wide_macs: Annotated[float, typer.Option(help=WIDE_HELP, min=0, max=100)] = 25,
    input: Annotated[Literal["float", "uint8"], typer.Option(help=INPUT_HELP)] = "float",
    layout: Annotated[Literal["hwc", "chw"], typer.Option(help="Of uint8 inputs.")] = "hwc",
    fallback: Annotated[Literal["xnnpack"] | None, typer.Option(help=FALLBACK_HELP)] = None,
    top_k: Annotated[int | None, typer.Option(help="Best classes and scores instead of all logits.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
    float_top1: Annotated[bool, typer.Option(help="Evaluate the float model as well.")] = True,
    processes: Annotated[int, typer.Option(help="Processes to evaluate in.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Exports a Vision Transformer to a .pte that runs in integers only."""
    config = configuration(bits, activation_bits, residual, probabilities, max_channel_shift)
    if features and top_k is not None:
        raise PackQViTError("--features leaves the classes out, --top-k ranks them: give one of them")
    if mixed_precision is not None:
        if budget is not None:
            raise PackQViTError("--mixed-precision is a mix that was found, --budget searches one: give one of them")
        config = MixedPrecision.load(mixed_precision).apply(config)
    if weights not in (None, RANDOM):
        if not Path(weights).is_file():
            raise PackQViTError(f"there is no weight file {weights}")
        if calibration is None:
            raise PackQViTError(NEEDS_CALIBRATION)
    if tune and calibration is None:
        raise PackQViTError("--tune needs --calibration FOLDER with some hundreds of images to train on")
    device = tune_device or ("cuda" if torch.cuda.is_available() else "cpu")
    tuning = TuningMethod(steps=tune_steps, seed=seed, device=device) if tune else None
    calibration_images = calibration_images or (512 if tune else 128)
    calibration_folder = ImageFolder.open(calibration).sample(calibration_images, seed) if calibration else None
    evaluation_folder = open_images(evaluate, labels, evaluate_images, seed) if evaluate else None
    if evaluation_folder is not None and not features:
        require_labels(evaluation_folder)
    output = output or Path(f"{file_stem(model)}_w{config.weight_bits}a{config.activation_bits}.pte")
    check_writable(output)

    errors.print(f"Loading {model}")
    loaded = with_normalization(load(model, weights), mean, std)
    loaded = without_classifier(loaded) if features else loaded
    preprocessing = loaded.preprocessing
    if calibration_folder is not None:
        images = _read(calibration_folder, preprocessing)
    elif loaded.random:
        errors.print("[yellow]No --calibration: random weights are calibrated with synthetic pictures[/]")
        images = preprocessing.normalize(synthetic_images(8, preprocessing.size, seed))
    else:
        raise PackQViTError(NEEDS_CALIBRATION)
    if evaluation_folder is not None and not features:
        _check_labels(evaluation_folder, loaded.module, images)

    tuning_images = None
    if tune:
        assert calibration is not None
        tuning_images = _read(ImageFolder.open(calibration).sample(tune_images, seed), preprocessing)
    method = CalibrationMethod(
        rounding=rounding,
        clipping=clipping,
        compensation=compensation,
        token_importance=token_importance,
        split_outliers=split_outliers,
        rotation=rotation,
    )
    if budget is not None:
        config = _mix(loaded, images, config, method, Limits(budget / 100, wide_macs / 100))
    program = export(
        loaded.module,
        (images[:1],),
        images.split(16),
        config=config,
        method=method,
        tuning=tuning,
        tuning_images=tuning_images,
        input_normalization=(preprocessing.mean, preprocessing.std),
        byte_input=layout if input == "uint8" else None,
        top_k=top_k,
        partitioners=() if fallback is None else [XnnpackPartitioner()],
        progress=progress,
    )
    program.save(output)

    table = facts(f"{loaded.name} W{config.weight_bits}A{config.activation_bits}")
    table.add_row("weights", escape(loaded.weights))
    if evaluation_folder is not None and features:
        found = Embeddings.of(output, loaded.module, evaluation_folder, preprocessing, processes)
        describe_embeddings(table, found, None, min(NEIGHBOURS, len(evaluation_folder) - 1))
    elif evaluation_folder is not None:
        _evaluate(table, loaded.module if float_top1 else None, output, evaluation_folder, preprocessing, processes)
    _describe(table, program, output)
    console.print(table)


NEEDS_CALIBRATION = (
    "trained weights need --calibration FOLDER: a hundred images like those of the application, from which the ranges "
    "of all activations are taken"
)


def _read(folder: ImageFolder, preprocessing: Preprocessing) -> Tensor:
    batches = progress(folder.batches(1, preprocessing), "reading images", len(folder))
    return torch.cat([batch.images for batch in batches])


def _mix(
    loaded: LoadedModel, images: Tensor, config: QuantizationConfig, method: CalibrationMethod, limits: Limits
) -> QuantizationConfig:
    mean, std = loaded.preprocessing.mean, loaded.preprocessing.std
    config = dataclasses.replace(config, input_normalization=(tuple(mean), tuple(std)))
    batches = images.split(16)
    found = suggest(loaded.module, (images[:1],), batches, config, limits=limits, method=method, progress=progress)
    errors.print("8 bits for", ", ".join(found.overrides) or "no layer", highlight=False)
    return found.apply(config)


def _check_labels(folder: ImageFolder, model: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        classes = model(images[:1]).shape[-1]
    assert folder.labels is not None
    folder.check_labels(classes)
    if folder.labels_from_folder_names and max(folder.labels) + 1 < classes:
        errors.print(
            f"[yellow]{folder.root} has {max(folder.labels) + 1} class folders, the model {classes} classes: labels "
            "are the positions of the folders unless --labels gives the class names[/]"
        )


def _evaluate(
    table: Table,
    model: nn.Module | None,
    program: Path,
    folder: ImageFolder,
    preprocessing: Preprocessing,
    processes: int,
) -> None:
    assert folder.labels is not None
    integer = predict_program(program, folder, preprocessing, processes)
    reference = None if model is None else predict_float(model, folder, preprocessing)
    describe(table, integer, reference, folder.labels)


def _describe(table: Table, program: Program, path: Path) -> None:
    table.add_row(".pte", f"{escape(str(path))} ({size(path.stat().st_size)})")
    table.add_row("delegate calls", str(program.report.delegates))
    for taken in program.report.fallbacks:
        table.add_row(f"calls of {taken.backend}", f"{taken.delegates} ({len(taken.operators)} operators in float)")
    outside = [f"{item.operator}: {item.reason}" for item in program.report.outside]
    table.add_row(
        "outside the delegates" if program.report.fallbacks else "outside the delegate",
        escape("\n".join(outside)) or "nothing",
    )
    model = runtime.load(path)
    takes = model.inputs()[0]
    image = torch.zeros(takes.shape, dtype=takes.dtype)
    table.add_row("input", f"{takes.dtype} {list(takes.shape)}".removeprefix("torch."))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        model.run(image)
        seconds.append(time.perf_counter() - start)
    table.add_row("latency here", f"{1000 * statistics.median(seconds):.1f} ms (median of {len(seconds)})")


if __name__ == "__main__":
    app()
