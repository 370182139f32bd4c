"""The training loop: distillation and labels, on one process or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from ..answers import tensors_of
from ..arguments import checked
from ..errors import PackQViTError
from ..files import check_writable
from ..progress import Progress, silent
from ..training.augment import blended, pasted, random_views
from ..training.average import ParameterAverage
from ..training.grids import LearnedChannelShifts
from ..training.memory import keep_freed_memory
from ..training.model import TrainableModel
from ..training.optimizer import cosine_schedule, parameter_groups, unrounded_share
from . import checkpoint as checkpoints
from .history import History
from .losses import Answer, objective
from .method import TrainingMethod
from .order import StepSampler, stream
from .preparation import QatModel

Evaluate = Callable[[QatModel], float]

_CROPS, _TOKENS = 1, 2
"""Keep the numbers of the crops and of unrounded tokens apart from those of the orders."""


def _has_length(data: Any) -> str | None:
    fits = hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, str | bytes | Mapping)
    return None if fits else "must be a map-style data set: FolderDataset(folder, preprocessing) is one"


@checked
def train(
    model: QatModel,
    data: Annotated[Dataset[Any], _has_length],
    *,
    teacher: nn.Module | None = None,
    method: TrainingMethod | None = None,
    checkpoint: str | Path | None = None,
    every: int = 100,
    evaluate: Evaluate | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> History:
    """Trains a model in place, on the device that it is on.

    Where torch.distributed is initialised (torchrun), each process trains on its share of every batch.

    Args:
        model: Of `prepare`.
        data: A map-style data set: its items are images, float32 [C, H, W], or pairs of an image and a label.
        teacher: Answers like what the model shall answer, usually the float model; moved to the model's device. With
            `TrainingMethod.features`, `model.float_model()`.
        method: How; None: TrainingMethod().
        checkpoint: A file to write to, and to go on from where it exists: the result is, bit for bit, that of a
            training without interruption, if `data` draws nothing at random.
        every: Steps between checkpoints, and between evaluations.
        evaluate: Called before the first step and every `every` steps with the model in evaluation mode, the mean of
            its parameters in place; its result is kept in the history. In a distributed training, by the first process
            only.
        workers: Processes that read the data set.
        progress: Wraps the loop over the steps: progress(iterable, description, length).

    Returns:
        The curves.

    Raises:
        PackQViTError: The data set is too small or has no labels where they are wanted, a teacher is missing, the loss
            or a gradient is not finite, or the checkpoint is of another training or cannot be written.
    """
    method = method or TrainingMethod()
    if (teacher is None) != (method.distillation == "none"):
        raise PackQViTError(
            f"distillation is {method.distillation!r}: give "
            + ("the float model as teacher" if teacher is None else "no teacher, or another distillation")
        )
    if method.features > 0 and not isinstance(teacher, TrainableModel):
        raise PackQViTError("with features the teacher has to be model.float_model(), whose LayerNorms are the model's")
    if method.unrounded > 0 and model.integer_functions:
        raise PackQViTError("an integer program rounds all tokens: with unrounded set model.integer_functions to False")
    if every < 1:
        raise PackQViTError(f"every is {every}, but must be at least 1")
    check_writable(checkpoint)
    keep_freed_memory()
    training = _Training(model, data, teacher, method)
    return training.run(Path(checkpoint) if checkpoint else None, every, evaluate, workers, progress or silent)


class _Training:
    def __init__(self, model: QatModel, data: Dataset[Any], teacher: nn.Module | None, method: TrainingMethod) -> None:
        self._method, self._data, self._model = method, data, model.train()
        self._device = next(model.parameters()).device
        height, width = model.example_inputs[0].shape[-2:]
        self._size = (height, width)
        self._rank, self._processes = 0, 1
        self._forward: nn.Module = model
        if distributed.is_available() and distributed.is_initialized():
            self._rank, self._processes = distributed.get_rank(), distributed.get_world_size()
            self._forward = DistributedDataParallel(model)
        images, needed = len(data), method.batch * self._processes  # type: ignore[arg-type]
        if images < needed:
            raise PackQViTError(f"the data set has {images} images, but one step takes {needed}; use a smaller batch")
        for grid in model.grids.values():
            if isinstance(grid, LearnedChannelShifts):
                grid.measures = method.outlier_weight > 0
        self._teacher = None if teacher is None else teacher.to(self._device).eval()
        self._optimizer = torch.optim.Adam(parameter_groups(model, method.rates), betas=(0.9, 0.99))
        self._schedule = cosine_schedule(self._optimizer, method.steps, method.warmup)
        self._average = None if method.ema is None else ParameterAverage(model, method.ema)
        self._history = History()

    def run(
        self, checkpoint: Path | None, every: int, evaluate: Evaluate | None, workers: int, progress: Progress
    ) -> History:
        method = self._method
        parts: dict[str, checkpoints.Stateful] = {
            "model": self._model,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
            "history": self._history,
        }
        if self._average is not None:
            parts["average"] = self._average
        done = 0
        if checkpoint is not None and checkpoint.is_file():
            done = checkpoints.load(checkpoint, method, parts)
        elif self._rank == 0 and evaluate is not None:
            self._history.checks.append((0, self._evaluate(evaluate)))
        steps = range(done, method.steps)
        images: int = len(self._data)  # type: ignore[arg-type]
        sampler = StepSampler(images, method.batch, steps, method.seed, self._rank, self._processes)
        # With a generator of its own the loader draws nothing from the global one, which a checkpoint keeps.
        loader = DataLoader(self._data, batch_sampler=sampler, num_workers=workers, generator=stream(method.seed))
        for step, batch in progress(zip(steps, loader, strict=True), "training", len(steps)):
            self._step(step, batch)
            if (step + 1) % every and step + 1 < method.steps:
                continue
            if self._rank == 0 and evaluate is not None:
                self._history.checks.append((step + 1, self._evaluate(evaluate)))
            if self._rank == 0 and checkpoint is not None:
                checkpoints.save(checkpoint, step + 1, method, parts)
        if self._average is not None:
            self._average.apply()
        self._model.eval()
        return self._history

    def _step(self, step: int, batch: Any) -> None:
        images, labels = batch if isinstance(batch, (tuple, list)) and len(batch) == 2 else (batch, None)
        images = images[0] if isinstance(images, (tuple, list)) else images  # of a TensorDataset without labels
        images = self._views(images.to(self._device), step)
        self._leave_unrounded(step)
        losses: list[float] = []
        size = self._method.micro_batch or self._method.batch
        for first in range(0, len(images), size):
            part = slice(first, first + size)
            seen, known = images[part], None if labels is None else labels[part].to(self._device)
            try:
                loss = self._loss(seen, known)
            except PackQViTError as error:  # integers cannot express what has become of a parameter
                origin = self._model.first_non_finite(seen)
                if origin is None:
                    raise
                raise _diverged(str(error), step, origin) from error
            if not bool(torch.isfinite(loss)):
                origin = self._model.first_non_finite(seen) or "the loss"
                raise _diverged(f"the loss is {loss.item()}", step, origin)
            share = len(seen) / len(images)
            (loss * share).backward()
            losses.append(loss.item() * share)
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._method.clip or float("inf"))
        if not bool(torch.isfinite(norm)):
            named = ((name, parameter.grad) for name, parameter in self._model.named_parameters())
            worst = next(name for name, grad in named if grad is not None and not bool(torch.isfinite(grad).all()))
            raise _diverged("a gradient is not finite", step, worst)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._history.losses.append(float(sum(losses)))
        rate, highest = float(self._schedule.get_last_lr()[0]), float(self._schedule.base_lrs[0])
        self._history.rates.append(rate / highest if highest > 0 else 0.0)
        self._schedule.step()
        if self._average is not None:
            self._average.update()

    def _views(self, images: torch.Tensor, step: int) -> torch.Tensor:
        method, draws = self._method, stream(self._method.seed, _CROPS, step, self._rank)
        if method.smallest_crop is not None:
            images = random_views(images, method.smallest_crop, draws, self._size)
        if method.mixup > 0:
            images = blended(images, method.mixup, draws)
        if method.cutmix > 0:
            images = pasted(images, method.cutmix, draws)
        wanted = self._model.example_inputs[0].shape[1:]
        if images.shape[1:] != wanted:
            raise PackQViTError(
                f"the images are {list(images.shape[1:])}, the model takes {list(wanted)}; scale them, or let "
                "smallest_crop do it"
            )
        return images

    def _leave_unrounded(self, step: int) -> None:
        share = unrounded_share(self._method.unrounded, step, self._method.steps)
        self._model.leave_unrounded(share, stream(self._method.seed, _TOKENS, step, self._rank))

    def _loss(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._method.autocast):
            target = None
            if self._teacher is not None:
                with torch.no_grad():
                    target = self._answer(self._teacher, images)
            answer = self._answer(self._forward, images)
        return objective(self._method, self._model, answer, target, labels)

    def _answer(self, model: nn.Module, images: torch.Tensor) -> Answer:
        if self._method.features > 0:
            output, norms = model(images, with_norms=True)
            return Answer(_given(output), norms)
        return Answer(_given(model(images)))

    @torch.no_grad()
    def _evaluate(self, evaluate: Evaluate) -> float:
        self._model.eval()
        try:
            if self._average is None:
                return float(evaluate(self._model))
            with self._average.applied():
                return float(evaluate(self._model))
        finally:
            self._model.train()


def _given(output: object) -> tuple[torch.Tensor, ...]:
    outputs = tensors_of(output)
    if not outputs:
        raise PackQViTError("training needs models that give tensors of floating-point numbers: logits or embeddings")
    return outputs


def _diverged(what: str, step: int, origin: str) -> PackQViTError:
    return PackQViTError(
        f"training diverged: {what} at step {step + 1}, from {origin} on; lower the learning rates "
        "(TrainingMethod.rates), or look at the images where it begins with the input"
    )
