"""Fine-tunes a Vision Transformer on a folder of images, first in float, then on the integer grids; exports the result.

    python examples/finetune_qat.py --bits 4 --model vit_tiny --data photos/train --validation photos/val

Where `labels.csv` gives labels of the model's own classes, or `--labels` says which folder is which of them, the
classifier keeps the rows of those that occur; other class folders get a new one. With `--label-weight 0 --float-steps
0` the images to train on need no labels, and the model keeps its classes. Several GPUs or machines: the same command
behind `torchrun --nproc-per-node N`.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from rich.markup import escape
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from classifier import check_labels, fit_classifier
from configuration import MEAN_HELP, MODEL_HELP, STD_HELP, configuration, with_normalization
from console import command, console, errors, facts, progress, size
from evaluate import describe, predict_float, predict_program, require_labels
from packqvit_delegate import CalibrationMethod, QuantizationConfig, qat
from packqvit_delegate.data import FolderDataset, ImageFolder, Preprocessing, read_class_names
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.files import check_writable
from packqvit_delegate.models import load
from packqvit_delegate.pictures import check_picture
from packqvit_delegate.progress import Progress, silent
from packqvit_delegate.training.optimizer import LearningRates

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

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
SHIFT_HELP = "With --residual int8: the largest power of two by which channels differ."


@app.command()
@command
def main(
    data: Annotated[Path, typer.Option(help=DATA_HELP)],
    validation: Annotated[Path, typer.Option(help="Images to evaluate on, laid out alike.")],
    bits: Annotated[int, typer.Option(help="Of the weights, and of the activations too unless given: 4 or 8.")] = 4,
    activation_bits: Annotated[int | None, typer.Option(help="Of the activations: 4 or 8.")] = None,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "vit_tiny",
    weights: Annotated[str | None, typer.Option(help="A .safetensors or .pth file; default: from the hub.")] = None,
    mean: Annotated[str | None, typer.Option(help=MEAN_HELP)] = None,
    std: Annotated[str | None, typer.Option(help=STD_HELP)] = None,
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
    residual: Annotated[Literal["int8", "int16"] | None, typer.Option(help="Residual stream.")] = None,
    probabilities: Annotated[Literal["log2", "linear"] | None, typer.Option(help="Attention probabilities.")] = None,
    max_channel_shift: Annotated[int | None, typer.Option(help=SHIFT_HELP, min=0, max=7)] = None,
    calibration_images: Annotated[int, typer.Option(help="Of --data, to begin with.", min=1)] = 128,
    output: Annotated[Path, typer.Option(help="The program.")] = Path("qat.pte"),
    checkpoint: Annotated[Path | None, typer.Option(help="Written and, where it exists, resumed from.")] = None,
    float_weights: Annotated[Path | None, typer.Option(help="Keeps the float model: found, it is not trained.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the curves into this picture.")] = None,
    every: Annotated[int, typer.Option(help="Steps between checkpoints and evaluations.", min=1)] = 100,
    check_images: Annotated[int, typer.Option(help="Validation images of these evaluations.", min=1)] = 100,
    workers: Annotated[int, typer.Option(help="Processes that read images.", min=0)] = 0,
    processes: Annotated[int, typer.Option(help="Processes to evaluate in.", min=1)] = os.cpu_count() or 1,
    device: Annotated[str, typer.Option(help="cpu, or cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the order and the crops.", min=0)] = 0,
) -> None:
    """Fine-tunes a Vision Transformer in float and on the integer grids, exports it, and evaluates both."""
    config = configuration(bits, activation_bits, residual, probabilities, max_channel_shift)
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
    check_writable(output, checkpoint, float_weights)
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
    where = _start(device)
    shown = progress if _is_first() else silent

    loaded = with_normalization(load(model, weights), mean, std)
    if loaded.random:
        raise PackQViTError(f"no weights for {model}: give --weights FILE")
    teacher, training, testing = fit_classifier(loaded, training, testing)
    images = FolderDataset(training, loaded.preprocessing)
    teacher = teacher.to(where)
    if trained is not None:
        _load_float(teacher, trained)
    elif float_steps > 0:
        _finetune(teacher, images, float_steps, float_rate, batch, seed, workers, shown)
        _share(teacher)
        if float_weights is not None and _is_first():
            torch.save(teacher.state_dict(), float_weights)

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
    checks = _checks(testing.sample(min(check_images, len(testing)), seed), loaded.preprocessing)
    history = qat.train(
        learner,
        images if view_size is None else FolderDataset(training, _squares(loaded.preprocessing, view_size)),
        teacher=None if method.distillation == "none" else learner.float_model() if features > 0 else teacher,
        method=method,
        checkpoint=checkpoint,
        every=every,
        evaluate=checks,
        workers=workers,
        progress=shown,
    )
    is_first = _is_first()
    _leave_the_others()
    if not is_first:
        return
    program = qat.export(learner)
    program.save(output)
    _report(model, config, teacher.cpu(), output, testing, loaded.preprocessing, processes, len(program.buffer))
    if plot is not None:
        title = f"{model} W{config.weight_bits}A{config.activation_bits}"
        qat.plot(history, plot, title, float_accuracy=checks(teacher))
        errors.print(f"curves in {plot}", highlight=False)


def _start(device: str) -> torch.device:
    """The device of this process, one of several under torchrun."""
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise PackQViTError(f"--device {device}: give cpu or cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        raise PackQViTError("--device cuda, but PyTorch finds no GPU; use cpu")
    if "RANK" not in os.environ:
        return torch.device(device)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    if kind != "cuda":
        return torch.device(device)
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return torch.device("cuda", torch.cuda.current_device())


def _leave_the_others() -> None:
    """Ends what the processes do together: they would not wait as long as an evaluation on many images takes."""
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _load_float(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        raise PackQViTError(f"{path} is not the float model of this data: {first_line}; delete it") from error


def _finetune(
    model: nn.Module,
    data: FolderDataset,
    steps: int,
    rate: float,
    batch: int,
    seed: int,
    workers: int,
    shown: Progress,
) -> None:
    """Plain fine-tuning in float, the same in every process."""
    if len(data) < batch:
        raise PackQViTError(f"there are {len(data)} images, but one step takes {batch}; use a smaller --batch")
    where = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, batch, shuffle=True, drop_last=True, generator=generator, num_workers=workers)
    epochs = iter(batch for _ in range(steps) for batch in loader)
    model.train()
    for _ in shown(range(steps), "fine-tuning in float", steps):
        images, labels = next(epochs)
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images[mirrored] = images[mirrored].flip(-1)
        loss = functional.cross_entropy(model(images.to(where)), labels.to(where), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _squares(preprocessing: Preprocessing, side: int) -> Preprocessing:
    """The largest square in the middle of an image, scaled to a side."""
    return dataclasses.replace(preprocessing, size=side, crop_fraction=1.0)


def _share(model: nn.Module) -> None:
    """The first process's weights in every process: a GPU's sums differ in their last bits."""
    if distributed.is_initialized():
        for value in model.state_dict().values():
            distributed.broadcast(value, src=0)


def _checks(folder: ImageFolder, preprocessing: Preprocessing) -> Callable[[nn.Module], float]:
    """Top-1 on some images, kept in memory."""
    batches = list(folder.batches(8, preprocessing))

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        where = next(model.parameters()).device
        right = [_right(model(batch.images.to(where)).cpu(), batch.labels) for batch in batches]
        return sum(right) / len(folder)

    return evaluate


def _right(logits: Tensor, labels: Tensor | None) -> int:
    assert labels is not None
    return int((logits.argmax(1) == labels).sum())


def _report(
    model: str,
    config: QuantizationConfig,
    teacher: nn.Module,
    output: Path,
    folder: ImageFolder,
    preprocessing: Preprocessing,
    processes: int,
    length: int,
) -> None:
    assert folder.labels is not None
    table = facts(f"{model} W{config.weight_bits}A{config.activation_bits}, trained")
    integer = predict_program(output, folder, preprocessing, processes)
    describe(table, integer, predict_float(teacher, folder, preprocessing), folder.labels)
    table.add_row("program", f"{escape(str(output))}, {size(length)}")
    console.print(table)


if __name__ == "__main__":
    app()
