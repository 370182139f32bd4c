"""Affine grids per tensor: minimum squared error, and clipping at a quantile."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch

from .base import SampledObserver

_GRID = 33
_ROUNDS = 2
_SEARCH_ELEMENTS = 1 << 17


def affine_parameters(low: float, high: float, qmin: int, qmax: int) -> tuple[float, int]:
    """Scale and zero point of the affine grid over [low, high], widened to hold 0."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max((high - low) / (qmax - qmin), 1e-8)
    zero_point = int(round(qmin - low / scale))
    return scale, min(max(zero_point, qmin), qmax)


class AffineObserver(SampledObserver):
    """An affine grid per tensor; subclasses choose the range."""

    def __init__(self, symmetric: bool = False, **kwargs: Any) -> None:
        """Starts empty.

        Args:
            symmetric: Zero point 0 and the same range on both sides.
            **kwargs: Fields of the QuantizationSpec.
        """
        super().__init__(**kwargs)
        self.symmetric = symmetric
        self._chosen: tuple[float, int] | None = None
        self._fixed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Records x and returns it unchanged."""
        if not self._fixed:
            self._chosen = None
        return super().forward(x)

    def fix(self, scale: float, zero_point: int) -> None:
        """Takes a grid that was decided elsewhere."""
        self._chosen, self._fixed = (scale, zero_point), True

    @abc.abstractmethod
    def choose_range(self) -> tuple[float, float]:
        """The range that the codes shall cover."""

    def parameters_for(self, low: float, high: float) -> tuple[float, int]:
        """Scale and zero point for a range."""
        if self.symmetric:
            return max(max(-low, high) / self.quant_max, 1e-8), 0
        return affine_parameters(low, high, self.quant_min, self.quant_max)

    def affine_pair(self) -> tuple[float, int]:
        """Scale and zero point, decided once and kept until more data comes."""
        if self._chosen is None:
            self._chosen = self.parameters_for(*self.choose_range())
        return self._chosen

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32 [1]) and zero point (int32 [1])."""
        scale, zero_point = self.affine_pair()
        return torch.tensor([scale]), torch.tensor([zero_point], dtype=torch.int32)

    def round_to_grid(self, x: torch.Tensor, scale: float, zero_point: int) -> torch.Tensor:
        """X rounded to a grid of this observer's codes."""
        codes = (x / scale).round_().clamp_(self.quant_min - zero_point, self.quant_max - zero_point)
        return codes.mul_(scale)

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to the chosen grid."""
        return self.round_to_grid(x, *self.affine_pair())


class MinMSEObserver(AffineObserver):
    """The affine grid of least squared error over the sample.

    Both ends of the range are searched in turn, from the exact extremes inwards, so that a massive outlier keeps its
    place only where that is worth it. With `function` the error is taken after it: the range of a GELU's input is
    chosen by what the GELU's output feels. `importance` [C], where it is set, weighs the squared error of each channel.
    """

    importance: torch.Tensor | None = None

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor] | None = None, **kwargs: Any) -> None:
        """Starts empty.

        Args:
            function: Applied to the values and to their rounded ones before they are compared.
            **kwargs: As AffineObserver's.
        """
        super().__init__(**kwargs)
        self.function = function
        self._rows: tuple[torch.Tensor, torch.Tensor] | None = None

    def weigh_rows(self, rows: torch.Tensor, weight: torch.Tensor) -> None:
        """Takes another sample than its own.

        Args:
            rows: float32 [R, C].
            weight: float32 [R], what the squared error of each row counts.
        """
        self._rows, self._chosen = (rows, weight), None

    def choose_range(self) -> tuple[float, float]:
        """The range of least error."""
        x, weight = self._weighted_sample()
        low, high = self.sample.range()
        target = x if self.function is None else self.function(x)

        def error(candidate: tuple[float, float]) -> float:
            rounded = self.round_to_grid(x, *self.parameters_for(*candidate))
            rounded = rounded if self.function is None else self.function(rounded)
            return float(((rounded - target).square_() * weight).sum())

        fractions = torch.logspace(0, -1.5, _GRID).tolist()
        if self.symmetric:
            bound = max(-low, high)
            return min(((-bound * f, bound * f) for f in fractions), key=error)
        best = (low, high)
        for _ in range(_ROUNDS):
            best = min(((best[0], high * f) for f in fractions), key=error)
            best = min(((low * f, best[1]) for f in fractions), key=error)
        return best

    def _weighted_sample(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, and what the squared error of each counts."""
        if self._rows is None:
            rows = self.sample.rows()
            rows = rows[:: max(1, rows.numel() // _SEARCH_ELEMENTS)] if rows.shape[0] > 1 else rows
            weight = torch.ones(rows.shape[0], 1)
        else:
            rows, weight = self._rows[0], self._rows[1].unsqueeze(1)
        importance = torch.ones(rows.shape[1]) if self.importance is None else self.importance
        return rows.flatten(), (weight * importance).flatten()


class ClippingObserver(AffineObserver):
    """The range between two quantiles of the sample, or given bounds: PackQViT's clipping of long tails.

    The paper clips the activation function's output to [-1, 10] (PackQViT, NeurIPS 2023).
    """

    def __init__(self, quantile: float = 0.9999, bounds: tuple[float, float] | None = None, **kwargs: Any) -> None:
        """Starts empty.

        Args:
            quantile: This share of the values lies below the upper end; as much above the lower one.
            bounds: The range itself; narrower extremes of the data narrow it.
            **kwargs: As AffineObserver's.
        """
        super().__init__(**kwargs)
        self.quantile = quantile
        self.bounds = bounds

    def choose_range(self) -> tuple[float, float]:
        """The clipped range."""
        low, high = self.sample.range()
        if self.bounds is not None:
            return max(low, self.bounds[0]), min(high, self.bounds[1])
        values = self.sample.rows().flatten().sort().values
        last = values.numel() - 1
        return float(values[round(last * (1 - self.quantile))]), float(values[round(last * self.quantile)])
