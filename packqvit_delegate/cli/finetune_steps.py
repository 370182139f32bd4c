"""What `packqvit finetune` does step by step."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.markup import escape
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from ..config import QuantizationConfig
from ..data import ClassName, FolderDataset, ImageFolder, Preprocessing
from ..errors import PackQViTError
from ..evaluation import predict_float, predict_program
from ..models import LoadedModel
from ..progress import Progress
from .console import console, facts, progress, size
from .tables import describe


def start_process(device: str) -> torch.device:
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


def leave_the_others() -> None:
    """Ends what the processes do together: they would not wait as long as an evaluation on many images takes."""
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def is_first() -> bool:
    """Whether this process reports and writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def load_float(model: nn.Module, path: Path) -> None:
    """Takes the weights of an earlier fine-tuning in float.

    Raises:
        PackQViTError: They are of another model.
    """
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        raise PackQViTError(f"{path} is not the float model of this data: {first_line}; delete it") from error


def finetune_float(
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


def squares(preprocessing: Preprocessing, side: int) -> Preprocessing:
    """The largest square in the middle of an image, scaled to a side."""
    return dataclasses.replace(preprocessing, size=side, crop_fraction=1.0)


def share(model: nn.Module) -> None:
    """The first process's weights in every process: a GPU's sums differ in their last bits."""
    if distributed.is_initialized():
        for value in model.state_dict().values():
            distributed.broadcast(value, src=0)


def checks_on(folder: ImageFolder, preprocessing: Preprocessing) -> Callable[[nn.Module], float]:
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


def report(
    model: str,
    config: QuantizationConfig,
    teacher: nn.Module,
    output: Path,
    folder: ImageFolder,
    preprocessing: Preprocessing,
    processes: int,
    length: int,
) -> None:
    """Shows how good the program and the float model are on the images to evaluate on."""
    assert folder.labels is not None
    table = facts(f"{model} W{config.weight_bits}A{config.activation_bits}, trained")
    integer = predict_program(output, folder, preprocessing, processes, progress)
    describe(table, integer, predict_float(teacher, folder, preprocessing, progress=progress), folder.labels)
    table.add_row("program", f"{escape(str(output))}, {size(length)}")
    console.print(table)


def class_names(
    loaded: LoadedModel, kept: Sequence[int], names: Sequence[ClassName] | None, training: ImageFolder
) -> tuple[str, ...] | None:
    """The names of the fitted classifier's classes, where somebody named them.

    Args:
        loaded: The model that was fitted.
        kept: The labels that these classes had before.
        names: Of --labels.
        training: With class folders, or not.
    """
    if training.labels_from_folder_names:
        folders = (path.name for path in training.root.iterdir() if path.is_dir() and not path.name.startswith("."))
        known: Sequence[str] = sorted(folders)
    elif names is not None:
        known = [entry.name for entry in names]
    else:
        known = loaded.class_names or ()
    return tuple(known[label] for label in kept) if max(kept) < len(known) else None
