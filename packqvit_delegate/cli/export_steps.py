"""What `packqvit export` does step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from executorch.exir.backend.partitioner import Partitioner
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from .. import runtime
from ..api import Program
from ..calibration import CalibrationMethod
from ..config import QuantizationConfig
from ..data import ImageFolder, Preprocessing
from ..errors import PackQViTError
from ..models import LoadedModel
from ..report_page import Judgement, Timing
from ..sensitivity import Limits, suggest
from .console import errors, progress, size
from .embeddings import NEIGHBOURS
from .tables import describe

COMPARED = 8
"""So many of the calibration images show what each operator loses, for the report: seconds for a ViT-Tiny."""


def read_images(folder: ImageFolder, preprocessing: Preprocessing) -> Tensor:
    """float32 [n, 3, size, size], all images of a folder."""
    batches = progress(folder.batches(1, preprocessing), "reading images", len(folder))
    return torch.cat([batch.images for batch in batches])


def mix(
    loaded: LoadedModel, images: Tensor, config: QuantizationConfig, method: CalibrationMethod, limits: Limits
) -> QuantizationConfig:
    """The configuration with 8 bits where a search finds that they help most."""
    mean, std = loaded.preprocessing.mean, loaded.preprocessing.std
    config = dataclasses.replace(config, input_normalization=(tuple(mean), tuple(std)))
    batches = images.split(16)
    found = suggest(loaded.module, (images[:1],), batches, config, limits=limits, method=method, progress=progress)
    errors.print("8 bits for", ", ".join(found.overrides) or "no layer", highlight=False)
    return found.apply(config)


def check_classes(folder: ImageFolder | None, loaded: LoadedModel, images: Tensor) -> None:
    """Holds labels and class names against the classes of a model.

    Raises:
        PackQViTError: A label is none of them, or there are more or fewer names.
    """
    if folder is None and loaded.class_names is None:
        return
    with torch.no_grad():
        classes = loaded.module(images[:1]).shape[-1]
    if loaded.class_names is not None and len(loaded.class_names) != classes:
        raise PackQViTError(
            f"--labels has {len(loaded.class_names)} names, the model {classes} classes: name each on a line of its "
            "own, in the order of the model's outputs"
        )
    if folder is None:
        return
    assert folder.labels is not None
    folder.check_labels(classes)
    if folder.labels_from_folder_names and max(folder.labels) + 1 < classes:
        errors.print(
            f"[yellow]{escape(str(folder.root))} has {max(folder.labels) + 1} class folders, the model {classes} "
            "classes: labels are the positions of the folders unless --labels gives the class names[/]"
        )


def partitioners(fallback: str | None) -> Sequence[Partitioner]:
    """Of the backend that gets what stays in float."""
    if fallback is None:
        return ()
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


def judge_classes(
    table: Table,
    model: nn.Module | None,
    program: Path,
    folder: ImageFolder,
    loaded: LoadedModel,
    processes: int,
) -> Judgement:
    """Adds the accuracy of a program, and of the float model where it is given."""
    assert folder.labels is not None
    judged = Judgement.of(
        program,
        folder,
        loaded.preprocessing,
        model,
        class_names=loaded.class_names or (),
        processes=processes,
        progress=progress,
    )
    describe(table, judged.integer, judged.reference, folder.labels)
    return judged


def judge_features(
    table: Table,
    model: nn.Module | None,
    program: Path,
    folder: ImageFolder,
    preprocessing: Preprocessing,
    processes: int,
) -> list[tuple[str, str]]:
    """Adds how close the embeddings of a program are to those of the float model; returns what it adds."""
    from .embedding_steps import Embeddings, figures

    assert model is not None
    found = Embeddings.of(program, model, folder, preprocessing, processes, progress)
    rows = figures(found, None, min(NEIGHBOURS, len(folder) - 1))
    for name, value in rows:
        table.add_row(name, value)
    return rows


def describe_program(table: Table, program: Program, path: Path, timing: Timing) -> None:
    """Adds what became of the model, and how long the program takes here."""
    table.add_row(".pte", f"{escape(str(path))} ({size(path.stat().st_size)})")
    table.add_row("delegate calls", str(program.report.delegates))
    for taken in program.report.fallbacks:
        table.add_row(f"calls of {taken.backend}", f"{taken.delegates} ({len(taken.operators)} operators in float)")
    outside = [f"{item.operator}: {item.reason}" for item in program.report.outside]
    table.add_row(
        "outside the delegates" if program.report.fallbacks else "outside the delegate",
        escape("\n".join(outside)) or "nothing",
    )
    takes = runtime.load(path).inputs()[0]
    table.add_row("input", f"{takes.dtype} {list(takes.shape)}".removeprefix("torch."))
    table.add_row("latency here", f"{timing.latency:.1f} ms (median of {timing.runs})")
