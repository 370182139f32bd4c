"""Handwritten digits from pixels to integers: train a micro ViT in seconds, export it at 8 and 4 bits, run it.

    python examples/digits.py

The data is scikit-learn's `load_digits`, 1797 real 8 x 8 pictures: nothing is downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from packqvit_delegate import Program, TuningMethod, export, runtime
from packqvit_delegate.cli.console import command, console, progress, size
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import VisionTransformer, ViTConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

MEAN, STD = (0.5,), (0.5,)
CONFIG = ViTConfig(image_size=8, patch_size=2, in_channels=1, num_classes=10, dim=48, depth=3, heads=3, mlp_ratio=2)
PRESETS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}


class Split(NamedTuple):
    """Pictures and what they show."""

    images: Tensor
    """float32 [n, 1, 8, 8] in [-1, 1]; (x + 1) / 2 * 255 is a byte."""
    labels: Tensor
    """int64 [n]."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One row of the table."""

    name: str
    accuracy: float
    program: Program | None = None


def load_data() -> tuple[Split, Split]:
    """Splits the digits into 1347 for training and 450 for testing, always the same ones."""
    digits = load_digits()
    pixels = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.float32))[:, None]
    images = (pixels / 255 - MEAN[0]) / STD[0]
    labels = torch.from_numpy(digits.target)
    train, test = train_test_split(np.arange(len(labels)), test_size=450, random_state=0, stratify=digits.target)
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def train(data: Split, epochs: int = 30, batch_size: int = 64, seed: int = 0) -> nn.Module:
    """Trains a micro ViT."""
    torch.manual_seed(seed)
    model = VisionTransformer(CONFIG)
    nn.init.normal_(model.pos_embed, std=0.3)  # patches of 2 x 2 say little without their place
    steps = epochs * (len(data.labels) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.2)
    for _ in progress(range(epochs), "training", epochs):
        for batch in torch.randperm(len(data.labels)).split(batch_size)[: len(data.labels) // batch_size]:
            loss = F.cross_entropy(model(data.images[batch]), data.labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    return (logits.argmax(1) == labels).float().mean().item()


def run(program: Program, images: Tensor) -> Tensor:
    """Logits of the ExecuTorch runtime for images one at a time."""
    model = runtime.load(program.buffer)
    return torch.cat([model.run(image)[0] for image in images.split(1)])


def experiment(presets: Iterable[str] = PRESETS, tune: bool = False) -> list[Result]:
    """Trains, exports and evaluates.

    Args:
        presets: Names of PRESETS.
        tune: Whether 4-bit models learn from the float model, without labels, after calibration.

    Raises:
        PackQViTError: a program is not one delegate call, or its bits are not those of the integer graph.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: a second thread costs more than it brings
    try:
        training, test = load_data()
        model = train(training)
        with torch.no_grad():
            results = [Result("float", accuracy(model(test.images), test.labels))]
        for name in presets:
            bits, activation_bits = PRESETS[name]
            program = export(
                model,
                (training.images[:1],),
                training.images[:256].split(64),
                bits=bits,
                activation_bits=activation_bits,
                input_normalization=(MEAN, STD),
                tuning=TuningMethod() if tune and bits == 4 else None,
                tuning_images=training.images,
                progress=progress,
            )
            if not program.report.is_whole:
                raise PackQViTError(f"{name} is not one delegate call:\n{program.report.render()}")
            logits = run(program, test.images)
            for image, expected in zip(test.images[:8].split(1), logits, strict=False):
                if not torch.equal(program.integer_module(image)[0], expected):
                    raise PackQViTError(f"{name}: the runtime's logits differ from the integer graph's")
            results.append(Result(name, accuracy(logits, test.labels), program))
        return results
    finally:
        torch.set_num_threads(threads)


@app.command()
@command
def main(
    worst_loss: Annotated[float, typer.Option(help="Fail when a preset loses more accuracy than this.")] = 0.05,
    tune: Annotated[bool, typer.Option("--tune", help="Tune the 4-bit models, without labels: half a minute.")] = False,
) -> None:
    """Trains a micro ViT on handwritten digits, exports it at 8 and 4 bits and evaluates it through the runtime."""
    results = experiment(tune=tune)
    table = Table("model", "test accuracy", ".pte", "delegate calls")
    for result in results:
        facts = (size(len(result.program.buffer)), str(result.program.report.delegates)) if result.program else ("", "")
        table.add_row(result.name, f"{100 * result.accuracy:.1f} %", *facts)
    console.print(table)
    for result in results:
        if result.accuracy < results[0].accuracy - worst_loss:
            raise PackQViTError(f"{result.name} loses more than {100 * worst_loss:.0f} points of accuracy")


if __name__ == "__main__":
    app()
