"""Grids of the residual stream: int8 with a power-of-two shift per channel, or int16."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ...errors import CalibrationError
from ...row_sample import NOT_FINITE, NOTHING_OBSERVED, RowSample
from .base import CodeObserver, SampledObserver, replace_by_codes

_ROWS = 2048
_LEAST_VARIANCE = 1e-12
_CLIPPED_OCTAVES = 6
"""By how many octaves the largest values may be beyond the coarsest grid, where few tokens have them."""
INT16_MARGIN = 1.25
"""The int16 stream covers this much more than calibration saw: outliers grow on other images, bits are plenty."""


_LEAST_BOUND = 1e-6
"""A stream of zeros has this range: any will do."""


class ResidualGrid(abc.ABC):
    """Mix-in: a symmetric grid with a scale per tensor or per channel; subclasses choose it."""

    quant_min: int
    quant_max: int

    @abc.abstractmethod
    def channel_scales(self) -> torch.Tensor:
        """float32 [C], or [1] for a scale per tensor."""

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales per channel (float32 [C]) and zero points (all 0)."""
        scales = self.channel_scales()
        return scales, torch.zeros(scales.numel(), dtype=torch.int32)

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to the grid."""
        scales = self.channel_scales()
        return (x / scales).round().clamp(self.quant_min, self.quant_max) * scales

    def convert(self, model: GraphModule, observer: Node) -> None:
        """Inserts the residual quantiser."""
        scales = self.channel_scales()
        inverse, zero = (1.0 / scales.double()).float(), torch.zeros(1)
        ops = torch.ops.packqvit
        q_args = (inverse, zero, -1, self.quant_min, self.quant_max)
        replace_by_codes(
            model, observer, ops.quantize_offset.default, q_args, ops.dequantize_offset.default, (scales, zero, -1)
        )


class Int16ResidualObserver(ResidualGrid, CodeObserver):
    """One scale per addition, over the observed range, or that which few rows let expect (RowSample), and a margin.

    The lowering lets it only grow along the stream: a massive outlier of a late block does not coarsen the early ones.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Starts empty."""
        super().__init__(**kwargs)
        self.bound: torch.Tensor
        self.register_buffer("bound", torch.zeros(1))
        self._few: RowSample | None = RowSample()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Records the largest magnitude and returns x unchanged."""
        bound = x.detach().abs().amax()
        if not torch.isfinite(bound):
            raise CalibrationError(NOT_FINITE)
        self.bound = torch.maximum(self.bound, bound)
        if self._few is not None:
            self._few.add(x)
            self._few = self._few if self._few.is_small else None
        return x

    def channel_scales(self) -> torch.Tensor:
        """The observed range with a margin over the 16-bit codes."""
        if not self.bound > 0 and self._few is not None and not self._few.count:
            raise CalibrationError(NOTHING_OBSERVED)
        bound = self.bound.clamp_min(_LEAST_BOUND)
        if self._few is not None and self._few.count:
            bound = bound.clamp_min(max(map(abs, self._few.range())))
        return bound * INT16_MARGIN / self.quant_max


class ChannelShiftObserver(ResidualGrid, SampledObserver):
    """Outlier-aware int8: base scale and per-channel shifts of least squared error, relative to the token's variance.

    For each candidate base scale s every channel takes the k in 0..max_shift whose grid s * 2^k has the least error on
    the sample (PackQViT's power-of-two ratio, FQ-ViT's power-of-two factor); the s of least total error wins. A token's
    squared error counts by one over its variance, by which the LayerNorm that reads it divides: otherwise the few
    tokens with massive activations decide for all. Channel indices and shifts are constants of the exported program.
    """

    def __init__(self, max_shift: int = 7, **kwargs: Any) -> None:
        """Starts empty.

        Args:
            max_shift: Largest shift.
            **kwargs: Fields of the QuantizationSpec.
        """
        super().__init__(**kwargs)
        self.max_shift = max_shift
        self._chosen: tuple[float, torch.Tensor] | None = None
        self._fixed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Records x and returns it unchanged."""
        if not self._fixed:
            self._chosen = None
        return super().forward(x)

    def fix(self, scale: float, shift: torch.Tensor) -> None:
        """Takes a grid that was decided elsewhere.

        Args:
            scale: Base scale.
            shift: uint8 [C], 0..max_shift.
        """
        self._chosen, self._fixed = (scale, shift), True

    def scale_and_shift(self) -> tuple[float, torch.Tensor]:
        """Base scale, and uint8 [C] shifts, of least error."""
        if self._chosen is None:
            self._chosen = self._search()
        return self._chosen

    def channel_scales(self) -> torch.Tensor:
        """Scale * 2^shift, float32 [C]."""
        scale, shift = self.scale_and_shift()
        return (scale * torch.exp2(shift.double())).float()

    def _search(self) -> tuple[float, torch.Tensor]:
        rows = self.sample.rows()
        rows = rows[:: max(1, rows.shape[0] // _ROWS)]
        weight = 1.0 / rows.var(1, correction=0, keepdim=True).clamp_min(_LEAST_VARIANCE)
        low, high = self.sample.channel_range()
        bound = torch.maximum(-low, high).clamp_min(1e-6)
        # Grids from the one that holds the largest value, each a quarter of an octave finer than the one before.
        top = float(bound.max()) / self.quant_max
        scales = [top * 2.0 ** (-i / 4) for i in range(4 * (self.max_shift + _CLIPPED_OCTAVES) + 1)]
        errors = torch.stack([self._channel_error(rows, weight, scale) for scale in scales])
        best: tuple[float, float, torch.Tensor] | None = None
        for i, scale in enumerate(scales):
            # Four grids back is a shift by one; a grid coarser than the first would be no use.
            least = errors[[i - 4 * shift for shift in range(min(self.max_shift, i // 4) + 1)]].min(0)
            total = float(least.values.sum())
            if best is None or total < best[0]:
                best = (total, scale, least.indices.to(torch.uint8))
        assert best is not None
        return best[1], best[2]

    def _channel_error(self, rows: torch.Tensor, weight: torch.Tensor, scale: float) -> torch.Tensor:
        rounded = (rows / scale).round().clamp(self.quant_min, self.quant_max) * scale
        return ((rounded - rows).square() * weight).sum(0)
