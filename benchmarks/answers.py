"""What programs answer to a folder of images, each run by its own engine."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import torch
from torch import Tensor, nn

from packqvit_delegate.data import ImageFolder, Preprocessing

from .contestants import Contestant
from .engines import Run, load, silence

CHUNK = 10
"""Images a process is given at a time."""


def float_answers(model: nn.Module, folder: ImageFolder, preprocessing: Preprocessing) -> Tensor:
    """Logits of the float model in PyTorch, float32 [images, classes]."""
    with torch.no_grad():
        return torch.cat([model(batch.images) for batch in folder.batches(16, preprocessing)])


def answers(contestant: Contestant, folder: ImageFolder, preprocessing: Preprocessing, processes: int) -> Tensor:
    """Logits of a program.

    Args:
        contestant: Takes one image.
        folder: The images.
        preprocessing: Of the model.
        processes: That share the images; each has one thread.

    Returns:
        float32 [images, classes], in the folder's order.
    """
    chunks = [folder.take(range(i, min(i + CHUNK, len(folder)))) for i in range(0, len(folder), CHUNK)]
    context = multiprocessing.get_context("spawn")  # the engines' threads do not survive a fork
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(contestant,)) as pool:
        return torch.cat(list(pool.map(_run, chunks, [preprocessing] * len(chunks))))


_program: Run


def _start(contestant: Contestant) -> None:
    global _program
    silence()
    torch.set_num_threads(1)
    _program = load(contestant, 1)


def _run(folder: ImageFolder, preprocessing: Preprocessing) -> Tensor:
    return torch.cat([_program(batch.images).clone() for batch in folder.batches(1, preprocessing)])
