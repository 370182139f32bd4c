"""Moments of a linear layer's inputs."""

from __future__ import annotations

import torch

_PRECISION = 1e-6
"""Sums of float32 products are exact to about this share of themselves."""


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
        """Mean of x x^T, float64 [K, K]; of x minus its mean where a bias takes care of that.

        A channel that is constant as far as the sums can tell gets so little a variance, and no covariances: the
        difference of two large numbers would leave rounding errors of either sign.
        """
        second = self._products / self._weight
        if not centred:
            return second
        covariance = second - torch.outer(self.mean(), self.mean())
        least = _PRECISION * second.diagonal()
        constant = covariance.diagonal() < least
        covariance[constant, :] = 0.0
        covariance[:, constant] = 0.0
        return covariance + torch.diag(torch.where(constant, least, 0.0))
