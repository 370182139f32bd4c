"""Tunes weights, scales, norms and biases of a calibrated model, all at once, against the float model's answers."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import torch
from torch.fx import GraphModule

from ..answers import losses, tensors_of
from ..arguments import checked
from ..errors import PackQViTError
from ..progress import Progress, silent
from ..training import TrainableModel
from ..training.augment import random_views
from ..training.average import ParameterAverage
from ..training.losses import feature_distance
from ..training.memory import keep_freed_memory
from ..training.optimizer import cosine_schedule, parameter_groups, unrounded_share
from .method import TuningMethod, default_features, default_rates

_RESIDUAL_IMAGES = 128
"""Images over which the range of an int16 residual is taken again."""


@dataclasses.dataclass(frozen=True)
class TuningReport:
    """What tuning did to the loss, on images that it did not train on.

    The loss is that of the answers (`answers.losses`) and `TuningMethod.features` times the distance of the LayerNorms'
    outputs (training/losses.py): it decides what is kept, because the answers to a hundred images alone swing too much.

    Attributes:
        before: As calibrated.
        after: Of the state that was kept; at most `before`.
        steps: Optimiser steps that were made.
    """

    before: float
    after: float
    steps: int


@checked
def tune(
    prepared: GraphModule,
    float_module: GraphModule,
    images: torch.Tensor,
    batch_size: int = 1,
    method: TuningMethod | None = None,
    progress: Progress | None = None,
) -> TuningReport:
    """Trains a calibrated graph in place, without labels.

    States are running means of the parameters. That of least distance on held-out images is kept, and the calibrated
    one is among those it competes with.

    Args:
        prepared: Of prepare_pt2e with PackQViTQuantizer, then calibrated.
        float_module: The graph that it was prepared from.
        images: float32 [N, C, H, W], a few hundred to a thousand.
        batch_size: Images that the graphs were exported for.
        method: How; None: TuningMethod().
        progress: Wraps the loop over the steps: progress(iterable, description, length).

    Raises:
        CalibrationError: There are too few images.
        PackQViTError: The loss is not finite.
    """
    method = method or TuningMethod()
    keep_freed_memory()
    return _Tuner(prepared, float_module, images, batch_size, method).run(progress or silent)


class _Tuner:
    def __init__(
        self,
        prepared: GraphModule,
        float_module: GraphModule,
        images: torch.Tensor,
        batch_size: int,
        method: TuningMethod,
    ) -> None:
        self._method = method
        self._device = torch.device(method.device)
        self._generator = torch.Generator().manual_seed(method.seed)
        self._model = TrainableModel(prepared, batch_size).to(self._device)
        self._features = default_features(self._model) if method.features is None else method.features
        self._teacher = TrainableModel(float_module, batch_size).to(self._device).requires_grad_(False)
        order = torch.randperm(len(images), generator=self._generator)
        held_out = method.held_out_of(len(images))
        self._images = images
        self._held_out, self._trained_on = order[:held_out], order[held_out:]

    def run(self, progress: Progress) -> TuningReport:
        method = self._method
        rates = method.rates or default_rates(self._model)
        optimizer = torch.optim.Adam(parameter_groups(self._model, rates), betas=(0.9, 0.99))
        schedule = cosine_schedule(optimizer, method.steps)
        average = ParameterAverage(self._model, method.ema)
        before = best = self._held_out_loss()
        best_state, since = self._state(), 0
        check_after = {round(method.steps * (i + 1) / method.checks) for i in range(method.checks)}
        step = 0
        for step, chosen in progress(enumerate(self._draws(), start=1), "tuning", method.steps):
            self._step(chosen, step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            average.update()
            if step not in check_after:
                continue
            with average.applied():
                found = self._held_out_loss()
                since = 0 if found < best else since + 1
                if found < best:
                    best, best_state = found, self._state()
            if since == method.patience:
                break
        if best < before:
            self._model.load_state_dict(best_state)
            self._model.cpu().eval().commit(list(self._images[:_RESIDUAL_IMAGES].split(method.micro_batch)))
        return TuningReport(before, best, step)

    def _draws(self) -> Iterator[torch.Tensor]:
        """Indices of the images of each step: all of them once, in a new order, then again."""
        waiting = torch.empty(0, dtype=torch.int64)
        for _ in range(self._method.steps):
            if len(waiting) < self._method.batch:
                waiting = self._trained_on[torch.randperm(len(self._trained_on), generator=self._generator)]
            yield waiting[: self._method.batch]
            waiting = waiting[self._method.batch :]

    def _step(self, chosen: torch.Tensor, step: int) -> None:
        """Adds up the gradients of one batch."""
        share = unrounded_share(self._method.unrounded, step - 1, self._method.steps)
        self._model.leave_unrounded(share, self._generator)
        self._model.train()
        for part in chosen.split(self._method.micro_batch):
            views = random_views(self._images[part].to(self._device), self._method.smallest_crop, self._generator)
            loss = self._loss(views)
            if not bool(torch.isfinite(loss)):
                origin = self._model.first_non_finite(views) or "the loss"
                raise PackQViTError(
                    f"tuning diverged: the loss is {loss.item()} at step {step}, from {origin} on; lower the "
                    "learning rates (TuningMethod.rates)"
                )
            (loss * (len(part) / len(chosen))).backward()

    def _loss(self, views: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target, target_norms = self._teacher.outputs_and_norms(views)
        output, norms = self._model.outputs_and_norms(views)
        loss = losses(tensors_of(output), tensors_of(target), self._model.answers).mean()
        if self._features > 0:
            loss = loss + self._features * feature_distance(norms, target_norms)
        return loss

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        self._model.eval()
        parts = self._held_out.split(self._method.micro_batch)
        total = sum(float(self._loss(self._images[part].to(self._device))) * len(part) for part in parts)
        return total / len(self._held_out)

    def _state(self) -> dict[str, torch.Tensor]:
        return copy.deepcopy(self._model.state_dict())
