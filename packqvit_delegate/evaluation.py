"""What programs and float models say to the images of a folder, and how alike that is."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from executorch.extension.pybindings import _C
from torch import Tensor, nn
from torch.nn import functional

from . import runtime
from .data import ImageFolder, Preprocessing, read_class_names
from .errors import PackQViTError
from .progress import Progress, silent

CHUNK = 8
"""Images a worker process is given at a time."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says to some images.

    Attributes:
        classes: int64 [n], the predicted classes.
        logits: float32 [n, classes]; None where a program gives only the best classes.
    """

    classes: Tensor
    logits: Tensor | None

    @classmethod
    def of(cls, logits: Tensor) -> Answers:
        """The classes of logits."""
        return cls(logits.argmax(1), logits)

    @classmethod
    def of_outputs(cls, outputs: Sequence[Tensor]) -> Answers:
        """Of logits, or of best classes and their logits, the best first."""
        return cls(outputs[0][:, 0], None) if len(outputs) == 2 else cls.of(outputs[0])


Outputs = tuple[Tensor, ...]
"""Of a program, for some images: the first axis of each."""


def predict_program(
    program: Path, folder: ImageFolder, preprocessing: Preprocessing, processes: int, progress: Progress = silent
) -> Answers:
    """What a classifier's .pte says to every image of a folder; see `run_program`.

    Raises:
        PackQViTError: a label of the folder is none of the program's classes.
    """
    gives = runtime.load(program).outputs()
    if len(gives) == 1:  # logits; the best classes alone do not say how many there are
        folder.check_labels(gives[0].shape[-1])
    return Answers.of_outputs(run_program(program, folder, preprocessing, processes, progress))


def run_program(
    program: Path, folder: ImageFolder, preprocessing: Preprocessing, processes: int, progress: Progress = silent
) -> Outputs:
    """Runs every image through a .pte, in several processes of one thread each.

    Args:
        program: the .pte; its input is one image, float32 or uint8 [1, 3, S, S], or uint8 [1, S, S, 3].
        folder: the images.
        preprocessing: with the size S.
        processes: how many at most; 1 stays in this process.
        progress: wraps the loop over the images.

    Returns:
        Its outputs, in the folder's order.
    """
    chunks = [folder.take(range(i, min(i + CHUNK, len(folder)))) for i in range(0, len(folder), CHUNK)]

    def collect(results: Iterable[Outputs]) -> Outputs:
        return _joined(list(progress(results, "integer model", len(chunks))))

    if processes == 1 or len(chunks) == 1:  # a worker starts for seconds
        model = runtime.load(program)
        return collect(_run(model, chunk, preprocessing) for chunk in chunks)
    # Not forked: the runtime's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start_worker, initargs=(program,)) as pool:
        return collect(pool.map(_run_in_worker, chunks, [preprocessing] * len(chunks)))


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


_worker_model: runtime.Model


def _start_worker(program: Path) -> None:
    global _worker_model
    torch.set_num_threads(1)
    _C._unsafe_reset_threadpool(1)
    _worker_model = runtime.load(program)


def _run_in_worker(chunk: ImageFolder, preprocessing: Preprocessing) -> Outputs:
    return _run(_worker_model, chunk, preprocessing)


def _run(model: runtime.Model, chunk: ImageFolder, preprocessing: Preprocessing) -> Outputs:
    results = []
    for batch in chunk.batches(1, preprocessing):
        outputs = model.run(model.tensor(batch.pixels[0], preprocessing))
        results.append(tuple(output.clone() for output in outputs))
    return _joined(results)


def predict_float(
    model: nn.Module,
    folder: ImageFolder,
    preprocessing: Preprocessing,
    size: int = 16,
    name: str = "float model",
    progress: Progress = silent,
) -> Answers:
    """Runs every image through a PyTorch classifier, `size` at once.

    Raises:
        PackQViTError: a label of the folder is none of the model's classes.
    """
    logits: list[Tensor] = []
    for batch_logits in run_float(model, folder, preprocessing, size, name, progress):
        if not logits:
            folder.check_labels(batch_logits.shape[-1])
        logits.append(batch_logits)
    return Answers.of(torch.cat(logits))


def run_float(
    model: nn.Module,
    folder: ImageFolder,
    preprocessing: Preprocessing,
    size: int = 16,
    name: str = "float model",
    progress: Progress = silent,
) -> Iterator[Tensor]:
    """The output of a PyTorch model for `size` images at a time."""
    with torch.no_grad():
        for batch in progress(folder.batches(size, preprocessing), name, -(-len(folder) // size)):
            yield model(batch.images)


def top1(answers: Answers, labels: Sequence[int]) -> str:
    """Accuracy for people to read: `78.20 % (391 / 500)`."""
    correct = int((answers.classes == torch.tensor(labels)).sum())
    return f"{100 * correct / len(labels):.2f} % ({correct} / {len(labels)})"


def divergence(answers: Answers, reference: Answers) -> float | None:
    """Mean Kullback-Leibler divergence from the reference's class probabilities in nats; None without logits."""
    if answers.logits is None or reference.logits is None:
        return None
    log_probability, log_target = (functional.log_softmax(x, dim=1) for x in (answers.logits, reference.logits))
    return float(functional.kl_div(log_probability, log_target, log_target=True, reduction="batchmean"))


def open_images(path: Path, labels: Path | None, count: int | None, seed: int) -> ImageFolder:
    """Opens a folder of images, or `count` drawn from it.

    Raises:
        PackQViTError: no images, or unreadable labels.
    """
    folder = ImageFolder.open(path, read_class_names(labels) if labels else None)
    return folder if count is None else folder.sample(count, seed)


def open_labelled(path: Path, labels: Path | None, count: int | None, seed: int) -> ImageFolder:
    """Opens a folder of images for evaluation.

    Raises:
        PackQViTError: no images, or images without labels.
    """
    folder = open_images(path, labels, count, seed)
    require_labels(folder)
    return folder


def require_labels(folder: ImageFolder) -> None:
    """Refuses a folder without labels.

    Raises:
        PackQViTError: it has none.
    """
    if folder.labels is None:
        raise PackQViTError(
            f"{folder.root} has no labels: add a labels.csv (file,label) or put the images into class folders"
        )


def image_size(program: Path) -> int:
    """Side of the square images that a .pte takes.

    Raises:
        PackQViTError: It takes something else.
    """
    takes = runtime.load(program).inputs()[0]
    shape = takes.shape
    if len(shape) == 4 and takes.channels_last:
        shape = (shape[0], shape[3], *shape[1:3])
    if len(shape) != 4 or shape[:2] != (1, 3) or shape[2] != shape[3]:
        raise PackQViTError(
            f"{program} takes an input of the shape {list(takes.shape)}; needed is one image, [1, 3, S, S], or "
            "[1, S, S, 3] bytes"
        )
    return shape[-1]
