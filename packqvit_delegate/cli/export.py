"""`packqvit export`: turns a trained Vision Transformer and some images into a .pte that runs in integers only."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from ..errors import PackQViTError
from ..files import check_writable
from . import options
from .console import command, console, errors, facts, progress
from .session import start

MIX_HELP = "A file of widths of single layers, as `packqvit sensitivity` writes it."
BUDGET_HELP = "Search the layers that need 8 bits most; the weights grow by at most so many percent."
WIDE_HELP = "With --budget: percent of the blocks' multiply-accumulates that may move to 8-bit activations."
CLIPPING_HELP = "Ranges end where the error is least, or at the extremes."
COMPENSATION_HELP = "Layers with weights of 4 bits make up for a part of the errors before them."
IMPORTANCE_HELP = "Errors in a token count by what they cost the answer."
SPLIT_HELP = "Hidden channels with massive activations become several that saturate."
ROTATION_HELP = "Mix channels by rotations; default: where weights or activations have 4 bits."
TUNE_HELP = "Train the calibrated model to answer like the float one, without labels: minutes, many points at 4 bits."
DEVICE_HELP = "With --tune: cpu or cuda; default: a GPU where PyTorch finds one."
CALIBRATION_IMAGES_HELP = "How many of them; default: 128, with --tune 512."
FALLBACK_HELP = "Which backend gets what stays in float; default: ExecuTorch's own kernels."
FEATURES_HELP = "Leave the classifier out: the program gives what it reads. With --evaluate, see `packqvit embeddings`."
STEPS_HELP = "With --tune: steps of 16 images; default: 1000."
REPORT_HELP = "Write all that is known of the program as one web page, ending in .html: accuracy, errors, times, grids."
OUTPUT_HELP = "Default: <model>_w<bits>a<bits>.pte."
NAMES_HELP = f"{options.LABELS_HELP} They are written into the program, and say which class folder is which class."
INPUT_HELP = "float: normalised images; uint8: RGB bytes, the same results without any float on the way in."
NEEDS_CALIBRATION = (
    "trained weights need --calibration FOLDER: a hundred images like those of the application, from which the ranges "
    "of all activations are taken"
)


@command
def export(
    bits: options.Bits = 4,
    activation_bits: options.ActivationBits = None,
    model: options.ModelName = "deit_tiny",
    weights: options.Weights = None,
    mean: options.Mean = None,
    std: options.Std = None,
    calibration: Annotated[Path | None, typer.Option(help="Folder of images like those of the application.")] = None,
    calibration_images: Annotated[int | None, typer.Option(help=CALIBRATION_IMAGES_HELP, min=1)] = None,
    features: Annotated[bool, typer.Option("--features", help=FEATURES_HELP)] = False,
    evaluate: Annotated[Path | None, typer.Option(help="Folder of images with labels.")] = None,
    evaluate_images: Annotated[int | None, typer.Option(help="How many of them; default: all.", min=1)] = None,
    labels: Annotated[Path | None, typer.Option(help=NAMES_HELP)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=OUTPUT_HELP)] = None,
    report: Annotated[Path | None, typer.Option(help=REPORT_HELP)] = None,
    residual: options.Residual = None,
    probabilities: options.Probabilities = None,
    max_channel_shift: options.ChannelShift = None,
    clipping: Annotated[bool, typer.Option(help=CLIPPING_HELP)] = True,
    rounding: Annotated[Literal["gptq", "nearest"], typer.Option(help="Of the weights.")] = "gptq",
    compensation: Annotated[bool, typer.Option(help=COMPENSATION_HELP)] = True,
    token_importance: Annotated[bool, typer.Option(help=IMPORTANCE_HELP)] = True,
    split_outliers: Annotated[bool, typer.Option(help=SPLIT_HELP)] = True,
    rotation: Annotated[bool | None, typer.Option(help=ROTATION_HELP)] = None,
    tune: Annotated[bool, typer.Option("--tune", help=TUNE_HELP)] = False,
    tune_images: Annotated[int, typer.Option(help="With --tune: images of --calibration to train on.", min=1)] = 1000,
    tune_steps: Annotated[int | None, typer.Option(help=STEPS_HELP, min=1)] = None,
    tune_device: Annotated[str | None, typer.Option(help=DEVICE_HELP)] = None,
    mixed_precision: Annotated[Path | None, typer.Option(help=MIX_HELP)] = None,
    budget: Annotated[float | None, typer.Option(help=BUDGET_HELP, min=0, max=100)] = None,
    wide_macs: Annotated[float, typer.Option(help=WIDE_HELP, min=0, max=100)] = 25,
    input: Annotated[Literal["float", "uint8"], typer.Option(help=INPUT_HELP)] = "float",
    layout: Annotated[Literal["hwc", "chw"], typer.Option(help="Of uint8 inputs.")] = "hwc",
    fallback: Annotated[Literal["xnnpack"] | None, typer.Option(help=FALLBACK_HELP)] = None,
    batch_sizes: options.BatchSizes = None,
    top_k: Annotated[int | None, typer.Option(help="Best classes and scores instead of all logits.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Of the draw of images.")] = 0,
    float_top1: Annotated[bool, typer.Option(help="Evaluate the float model as well.")] = True,
    processes: options.Processes = options.CPUS,
) -> None:
    """Export a Vision Transformer to a .pte that runs in integers only."""
    if features and top_k is not None:
        raise PackQViTError("--features leaves the classes out, --top-k ranks them: give one of them")
    if mixed_precision is not None and budget is not None:
        raise PackQViTError("--mixed-precision is a mix that was found, --budget searches one: give one of them")
    options.check_weight_file(weights)
    if weights != options.RANDOM and calibration is None:
        raise PackQViTError(NEEDS_CALIBRATION)
    sizes = options.batch_sizes_of(batch_sizes)
    if tune and calibration is None:
        raise PackQViTError("--tune needs --calibration FOLDER with some hundreds of images to train on")
    start("Starting PyTorch and ExecuTorch")
    import torch

    from .. import api
    from ..calibration import CalibrationMethod
    from ..data import ImageFolder, read_class_names, synthetic_images
    from ..evaluation import open_images, require_labels
    from ..models import file_stem, load, without_classifier
    from ..report_page import Timing, check_page
    from ..sensitivity import Limits, MixedPrecision
    from ..tuning import TuningMethod
    from . import export_steps as steps

    config = options.configuration(bits, activation_bits, residual, probabilities, max_channel_shift)
    if mixed_precision is not None:
        config = MixedPrecision.load(mixed_precision).apply(config)
    device = tune_device or ("cuda" if torch.cuda.is_available() else "cpu")
    tuning = TuningMethod(steps=tune_steps or TuningMethod.steps, seed=seed, device=device) if tune else None
    calibration_images = calibration_images or (512 if tune else 128)
    calibration_folder = ImageFolder.open(calibration).sample(calibration_images, seed) if calibration else None
    names = tuple(entry.name for entry in read_class_names(labels)) if labels else None
    evaluation_folder = open_images(evaluate, labels, evaluate_images, seed) if evaluate else None
    if evaluation_folder is not None and not features:
        require_labels(evaluation_folder)
    output = output or Path(f"{file_stem(model)}_w{config.weight_bits}a{config.activation_bits}.pte")
    check_writable(output)
    if report is not None:
        check_page(report)
        if report.absolute() == output.absolute():
            raise PackQViTError(f"{report} cannot be both: name the program and its report differently")

    errors.print(f"Loading {model}", markup=False, highlight=False)
    loaded = options.with_normalization(load(model, weights, progress=progress), mean, std)
    if loaded.task == "features" and not features:
        raise PackQViTError(f"{model} has no classifier: add --features, and the program gives features")
    if features and loaded.task != "features":
        loaded = without_classifier(loaded)
    if names is not None and not features:
        loaded = dataclasses.replace(loaded, class_names=names)
    preprocessing = loaded.preprocessing
    if calibration_folder is not None:
        images = steps.read_images(calibration_folder, preprocessing)
    elif loaded.random:
        errors.print("[yellow]No --calibration: random weights are calibrated with synthetic pictures[/]")
        images = preprocessing.normalize(synthetic_images(8, preprocessing.size, seed))
    else:
        raise PackQViTError(NEEDS_CALIBRATION)
    if not features:
        steps.check_classes(evaluation_folder, loaded, images)

    tuning_images = None
    if tune:
        assert calibration is not None
        tuning_images = steps.read_images(ImageFolder.open(calibration).sample(tune_images, seed), preprocessing)
    method = CalibrationMethod(
        rounding=rounding,
        clipping=clipping,
        compensation=compensation,
        token_importance=token_importance,
        split_outliers=split_outliers,
        rotation=rotation,
    )
    if budget is not None:
        config = steps.mix(loaded, images, config, method, Limits(budget / 100, wide_macs / 100))
    program = api.export(
        loaded.module,
        (images[:1],),
        images.split(16),
        config=config,
        method=method,
        tuning=tuning,
        tuning_images=tuning_images,
        metadata=loaded.metadata,
        byte_input=layout if input == "uint8" else None,
        top_k=top_k,
        partitioners=steps.partitioners(fallback),
        batch_sizes=sizes,
        compared=images[: steps.COMPARED] if report is not None else None,
        progress=progress,
    )
    program.save(output)

    table = facts(f"{loaded.name} W{config.weight_bits}A{config.activation_bits}{', features' if features else ''}")
    table.add_row("weights", escape(loaded.weights))
    reference = loaded.module if float_top1 or features else None
    judged, figures = None, []
    if evaluation_folder is not None and features:
        figures = steps.judge_features(table, reference, output, evaluation_folder, preprocessing, processes)
    elif evaluation_folder is not None:
        judged = steps.judge_classes(table, reference, output, evaluation_folder, loaded, processes)
    timing = Timing.of(output) if report is not None else Timing.of(output, runs=5, profile=False)
    steps.describe_program(table, program, output, timing)
    console.print(table)
    if report is not None:
        program.report.save(report, judged, timing, figures)
        console.print(f"{report} tells all of it", markup=False, highlight=False)
