"""A running mean of a model's parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ParameterAverage:
    """Exponential moving average of all parameters: the logarithms of scales, latent weights, biases and norms.

    It stands beside the model, because a TrainableModel holds a graph and is not to be copied, as AveragedModel would.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Starts from the parameters as they are.

        Args:
            model: Whose parameters are followed.
            decay: At most this much of the mean is kept at a step; less at first, so that the start is soon forgotten.
        """
        self._parameters = list(model.parameters())
        self._mean = [parameter.detach().clone() for parameter in self._parameters]
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Takes the parameters of one more step."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        get_ema_multi_avg_fn(decay)(self._mean, list(self._parameters), self._updates)

    @torch.no_grad()
    def apply(self) -> None:
        """Puts the mean in the place of the parameters."""
        for parameter, mean in zip(self._parameters, self._mean, strict=True):
            parameter.copy_(mean)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The mean in the place of the parameters for a while."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self._parameters, kept, strict=True):
                    parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The mean, and how many steps it is of."""
        return {"mean": self._mean, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the mean of another one over the same model."""
        for mean, saved in zip(self._mean, state["mean"], strict=True):
            mean.copy_(saved)
        self._updates = state["updates"]
