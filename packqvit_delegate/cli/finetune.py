"""`packqvit finetune`: fine-tunes a Vision Transformer on a folder of images, first in float, then on integer grids.

Where `labels.csv` gives labels of the model's own classes, or `--labels` says which folder is which of them, the
classifier keeps the rows of those that occur; other class folders get a new one. With `--label-weight 0 --float-steps
0` the images to train on need no labels, and the model keeps its classes. Several GPUs or machines: the same command
behind `torchrun --nproc-per-node N`.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PackQViTError
from ..files import check_writable, replacing
from . import options
from .console import can_resume, command, errors, progress
from .session import start

DATA_HELP = "Images to train on: labels.csv (file,label), or one sub-folder a class."
INTEGER_HELP = (
    "Train on the very values of the integer operators, or in float arithmetic on their grids: half the time."
)
RANGES_HELP = "Learn where activations are clipped, or leave the ranges as calibrated."
CLIPPING_HELP = "Calibrated ranges end where the error is least, or at the extremes."
LABELS_HELP = "Class names in label order (synset_words.txt): class folders named so are the model's own classes."
FEATURES_HELP = (
    "Weight of the distance of LayerNorms' outputs from the float model's; against learning few images by heart."
)
ROTATION_HELP = "Mix channels by rotations before calibration."
CROP_HELP = "Images are cropped to at least this share of their area, anew at every step."
VIEW_HELP = (
    "QAT crops out of squares of this side, as wide as the image is, not out of what the model would see of it; for "
    "crops that stay sharp."
)
UNROUNDED_HELP = "At first so many of the tokens keep their values where activations have less than 8 bits."
MIXUP_HELP = "Without labels: share of the images that are blended with another one."
CUTMIX_HELP = "Without labels: share of the images into which a part of another one is pasted."


@command
def finetune(
    data: Annotated[Path, typer.Option(help=DATA_HELP)],
    validation: Annotated[Path, typer.Option(help="Images to evaluate on, laid out alike.")],
    bits: options.Bits = 4,
    activation_bits: options.ActivationBits = None,
    model: options.ModelName = "vit_tiny",
    weights: options.Weights = None,
    mean: options.Mean = None,
    std: options.Std = None,
    labels: Annotated[Path | None, typer.Option(help=LABELS_HELP)] = None,
    float_steps: Annotated[int, typer.Option(help="Steps of fine-tuning in float before; 0: none.", min=0)] = 200,
    float_rate: Annotated[float, typer.Option(help="Their highest learning rate.", min=0)] = 1e-4,
    steps: Annotated[int, typer.Option(help="Steps of training on the integer grids.", min=1)] = 500,
    batch: Annotated[int, typer.Option(help="Images of a step in each process.", min=1)] = 16,
    micro_batch: Annotated[int | None, typer.Option(help="Images at once, to save memory.", min=1)] = None,
    rate: Annotated[float, typer.Option(help="Times the usual learning rates.", min=0)] = 1.0,
    label_weight: Annotated[float, typer.Option(help="Share of the labels in the loss.", min=0, max=1)] = 0.5,
    features: Annotated[float, typer.Option(help=FEATURES_HELP, min=0)] = 0.0,
    outlier_weight: Annotated[float, typer.Option(help="With --residual int8: keep outliers alike.", min=0)] = 0.0,
    learn_ranges: Annotated[bool, typer.Option(help=RANGES_HELP)] = True,
    clipping: Annotated[bool, typer.Option(help=CLIPPING_HELP)] = True,
    rotation: Annotated[bool, typer.Option(help=ROTATION_HELP)] = False,
    smallest_crop: Annotated[float, typer.Option(help=CROP_HELP, min=0.01, max=1)] = 0.5,
    view_size: Annotated[int | None, typer.Option(help=VIEW_HELP, min=1)] = None,
    unrounded: Annotated[float, typer.Option(help=UNROUNDED_HELP, min=0, max=1)] = 0.0,
    mixup: Annotated[float, typer.Option(help=MIXUP_HELP, min=0, max=1)] = 0.0,
    cutmix: Annotated[float, typer.Option(help=CUTMIX_HELP, min=0, max=1)] = 0.0,
    integer_functions: Annotated[bool, typer.Option(help=INTEGER_HELP)] = True,
    autocast: Annotated[bool, typer.Option(help="Float arithmetic in bfloat16.")] = False,
    residual: options.Residual = None,
    probabilities: options.Probabilities = None,
    max_channel_shift: options.ChannelShift = None,
    batch_sizes: options.BatchSizes = None,
    calibration_images: Annotated[int, typer.Option(help="Of --data, to begin with.", min=1)] = 128,
    output: Annotated[Path, typer.Option("--output", "-o", help="The program.")] = Path("qat.pte"),
    checkpoint: Annotated[Path | None, typer.Option(help="Written and, where it exists, resumed from.")] = None,
    float_weights: Annotated[Path | None, typer.Option(help="Keeps the float model: found, it is not trained.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this picture.")] = None,
    every: Annotated[int, typer.Option(help="Steps between checkpoints and evaluations.", min=1)] = 100,
    check_images: Annotated[int, typer.Option(help="Validation images of these evaluations.", min=1)] = 100,
    workers: Annotated[int, typer.Option(help="Processes that read images.", min=0)] = 0,
    processes: options.Processes = options.CPUS,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the order and the crops.", min=0)] = 0,
) -> None:
    """Fine-tune a model in float and on the integer grids, export it, and evaluate both."""
    options.check_weight_file(weights)
    check_writable(output, checkpoint, float_weights)
    sizes = options.batch_sizes_of(batch_sizes)
    start("Starting PyTorch and ExecuTorch")
    import torch

    from .. import qat
    from ..calibration import CalibrationMethod
    from ..data import FolderDataset, ImageFolder, read_class_names
    from ..evaluation import require_labels
    from ..models import load
    from ..pictures import check_picture
    from ..progress import silent
    from ..training.optimizer import LearningRates
    from . import finetune_steps as steps_of
    from .classifier import check_labels, fit_classifier

    config = options.configuration(bits, activation_bits, residual, probabilities, max_channel_shift)
    rates = LearningRates().scaled(rate)
    if not learn_ranges:
        rates = dataclasses.replace(rates, activation_scales=0.0)
    method = qat.TrainingMethod(
        steps=steps,
        batch=batch,
        micro_batch=micro_batch,
        rates=rates,
        distillation="none" if label_weight == 1 else "soft",
        label_weight=label_weight,
        features=features,
        outlier_weight=outlier_weight,
        smallest_crop=smallest_crop,
        unrounded=unrounded,
        mixup=mixup,
        cutmix=cutmix,
        autocast=autocast,
        seed=seed,
    )
    if plot is not None:
        check_picture(plot)
    if unrounded > 0 and integer_functions:
        raise PackQViTError("the integer functions round all tokens: --unrounded needs --no-integer-functions")
    names = read_class_names(labels) if labels else None
    training, testing = ImageFolder.open(data, names), ImageFolder.open(validation, names)
    require_labels(testing)
    if label_weight > 0 or float_steps > 0:
        require_labels(training)
    trained = float_weights if float_weights is not None and float_weights.is_file() else None
    check_labels(training, testing, new_classifier_learns=float_steps > 0 or trained is not None)
    where = steps_of.start_process(device)
    shown = progress if steps_of.is_first() else silent

    loaded = options.with_normalization(load(model, weights, progress=shown), mean, std)
    if loaded.random or loaded.task == "features":
        raise PackQViTError(f"{model} has no trained classifier to begin with: give --weights FILE")
    teacher, kept, training, testing = fit_classifier(loaded, training, testing)
    loaded = dataclasses.replace(loaded, class_names=steps_of.class_names(loaded, kept, names, training))
    images = FolderDataset(training, loaded.preprocessing)
    teacher = teacher.to(where)
    if trained is not None:
        steps_of.load_float(teacher, trained)
    elif float_steps > 0:
        steps_of.finetune_float(teacher, images, float_steps, float_rate, batch, seed, workers, shown)
        steps_of.share(teacher)
        if float_weights is not None and steps_of.is_first():
            with replacing(float_weights) as partial:
                torch.save(teacher.state_dict(), partial)
            can_resume(f"the model fine-tuned in float is in {float_weights}, and the same command goes on from it")

    first = training.sample(min(calibration_images, len(training)), seed)
    calibration = torch.cat([b.images for b in first.batches(16, loaded.preprocessing)])
    pixels = loaded.preprocessing
    config = dataclasses.replace(config, input_normalization=(tuple(pixels.mean), tuple(pixels.std)))
    learner = qat.prepare(
        copy.deepcopy(teacher).cpu(),
        (calibration[:1],),
        calibration,
        config,
        method=CalibrationMethod(clipping=clipping, rotation=rotation),
        integer_functions=integer_functions,
        progress=shown,
    ).to(where)
    checks = steps_of.checks_on(testing.sample(min(check_images, len(testing)), seed), loaded.preprocessing)
    if checkpoint is not None:
        can_resume(f"the same command goes on from the checkpoint {checkpoint}, written every {every} steps")
    history = qat.train(
        learner,
        images if view_size is None else FolderDataset(training, steps_of.squares(loaded.preprocessing, view_size)),
        teacher=None if method.distillation == "none" else learner.float_model() if features > 0 else teacher,
        method=method,
        checkpoint=checkpoint,
        every=every,
        evaluate=checks,
        workers=workers,
        progress=shown,
    )
    is_first = steps_of.is_first()
    steps_of.leave_the_others()
    if not is_first:
        return
    program = qat.export(learner, metadata=loaded.metadata, batch_sizes=sizes)
    program.save(output)
    steps_of.report(model, config, teacher.cpu(), output, testing, loaded.preprocessing, processes, len(program.buffer))
    if plot is not None:
        title = f"{model} W{config.weight_bits}A{config.activation_bits}"
        qat.plot(history, plot, title, float_accuracy=checks(teacher))
        errors.print(f"curves in {plot}", highlight=False)
