"""Symmetric weight grids, one scale an output channel."""

from __future__ import annotations

from typing import Any

import torch

from .base import CodeObserver

_EMPTY = 2.0**-24
"""A row so much smaller than the largest is none."""
_BLOCK = 1 << 16
"""Weights that are searched at a time: they stay in cache."""


def symmetric_scales(
    weight: torch.Tensor, qmax: int, search: bool, importance: torch.Tensor | None = None
) -> torch.Tensor:
    """Scale per output channel.

    Rows of zeros, and those that are so much smaller than the largest that float32 would not tell them from zero beside
    it, have codes of zero on the mean grid of the others: training can move them, and their bias has usual steps.

    Args:
        weight: float32 or float64 [O, ...].
        qmax: Largest code.
        search: Take the scale of least squared error (narrow grids) instead of the one that clips nothing.
        importance: [K], what the squared error of each weight of a row counts; None: all the same.

    Returns:
        [O], of the weight's type.
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    largest = rows.abs().amax(1, keepdim=True)
    is_empty = largest <= _EMPTY * largest.max()
    usual = largest[~is_empty].mean() if not bool(is_empty.all()) else rows.shape[1] ** -0.5
    full = torch.where(is_empty, usual, largest) / qmax
    if not search:
        return full.squeeze(1)
    count = max(1, _BLOCK // rows.shape[1])
    blocks = [
        _searched_scales(some, start, qmax, importance)
        for some, start in zip(rows.split(count), full.split(count), strict=True)
    ]
    return torch.cat(blocks).squeeze(1)


def _searched_scales(
    rows: torch.Tensor, full: torch.Tensor, qmax: int, importance: torch.Tensor | None
) -> torch.Tensor:
    """Of the scales from `full` [O, 1] on down, those of least error."""
    best, best_error = full, torch.full_like(full, float("inf"))
    squares = torch.empty_like(rows)
    for fraction in torch.linspace(1.0, 0.35, 40).tolist():
        scale = full * fraction
        torch.div(rows, scale, out=squares)
        squares.round_().clamp_(-qmax, qmax).mul_(scale).sub_(rows).square_()
        if importance is not None:
            squares.mul_(importance)
        error = squares.sum(1, keepdim=True)
        best = torch.where(error < best_error, scale, best)
        best_error = torch.minimum(error, best_error)
    return best


class WeightObserver(CodeObserver):
    """Symmetric codes per output channel: least squared error at 4 bits, nothing clipped at 8."""

    def __init__(self, ch_axis: int = 0, **kwargs: Any) -> None:
        """Starts empty.

        Args:
            ch_axis: Axis of the output channels; always 0.
            **kwargs: Fields of the QuantizationSpec.
        """
        super().__init__(**kwargs)
        self.ch_axis = ch_axis
        self.qscheme = torch.per_channel_symmetric
        self._weight: torch.Tensor | None = None
        self._scales: torch.Tensor | None = None
        self._source: torch.Tensor | None = None
        self._fixed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Remembers the weight and returns it unchanged."""
        if self._fixed:
            return x
        if self._weight is None or self._weight.data_ptr() != x.data_ptr():
            self._weight, self._scales = x.detach(), None
        return x

    def fix(self, weight: torch.Tensor, scales: torch.Tensor, source: torch.Tensor | None = None) -> None:
        """Takes weights that lie on a grid already.

        Args:
            weight: float32 [O, ...], codes times scales.
            scales: float32 [O].
            source: float32 [O, ...], where each would stand were it alone not rounded; None: on its code.
        """
        self._weight, self._scales, self._fixed = weight, scales, True
        self._source = source

    def rounded_and_source(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights on the grid, and where each would stand were it not rounded; float32 [O, ...] both."""
        assert self._weight is not None
        weight = self._weight if self._fixed else self.fake_quantize(self._weight)
        return weight, self._weight if self._source is None else self._source

    def scales(self) -> torch.Tensor:
        """float32 [O]."""
        if self._scales is None:
            assert self._weight is not None
            self._scales = symmetric_scales(self._weight, self.quant_max, search=self.quant_max < 127)
        return self._scales

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales (float32 [O]) and zero points (int64 [O], all 0)."""
        scales = self.scales()
        return scales, torch.zeros(scales.shape[0], dtype=torch.int64)

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to its grid."""
        scales = self.scales().reshape(-1, *[1] * (x.ndim - 1))
        return (x / scales).round().clamp(self.quant_min, self.quant_max) * scales
