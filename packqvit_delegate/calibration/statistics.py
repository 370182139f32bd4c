"""Moments of a linear layer's inputs."""

from __future__ import annotations

import torch


class InputMoments:
    """Weighted mean and covariance over all rows that were added; memory does not grow with their number."""

    def __init__(self, channels: int) -> None:
        """Starts with no rows."""
        self._weight = 0.0
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Takes rows.

        Args:
            x: float32 [..., K].
            weight: float32 [...], how much each row counts; None: 1.
        """
        x = x.flatten(0, -2)
        w = torch.ones(x.shape[0], 1) if weight is None else weight.reshape(-1, 1)
        self._weight += float(w.sum())
        weighted = x * w
        self._sum += weighted.sum(0)
        self._products += weighted.T @ x

    def mean(self) -> torch.Tensor:
        """float64 [K]."""
        return self._sum / self._weight

    def hessian(self, centred: bool) -> torch.Tensor:
        """Mean of x x^T, float64 [K, K]; of x minus its mean where a bias takes care of that."""
        second = self._products / self._weight
        return second - torch.outer(self.mean(), self.mean()) if centred else second
