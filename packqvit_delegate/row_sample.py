"""A bounded, deterministic sample of a stream of tensors."""

from __future__ import annotations

import torch

from .errors import CalibrationError

SAMPLE_ELEMENTS = 1 << 18
"""A sample keeps about this many values."""

NOT_FINITE = "a calibration input leads to NaN or infinite activations; check the weights and the normalisation"
NOTHING_OBSERVED = "no calibration data was run through the prepared model before convert"


class RowSample:
    """Rows (vectors along the last axis), evenly spread over everything that was added.

    Memory is bounded: when the sample is full every second row is dropped and half as many are taken from then on.
    The exact minimum and maximum per channel are kept besides, so that no outlier is missed.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self._parts: list[torch.Tensor] = []
        self._kept = 0
        self._stride = 1
        self._phase = 0
        self._range: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, x: torch.Tensor) -> None:
        """Takes rows of x [..., C].

        Raises:
            CalibrationError: x holds NaN or infinity.
        """
        rows = x.detach().reshape(-1, x.shape[-1])
        low, high = torch.aminmax(rows, dim=0)
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            raise CalibrationError(NOT_FINITE)
        if self._range is None:
            self._range = low, high
        else:
            self._range = torch.minimum(self._range[0], low), torch.maximum(self._range[1], high)
        taken = rows[self._phase :: self._stride].clone()
        self._phase = (self._phase - rows.shape[0]) % self._stride
        if taken.shape[0]:
            self._parts.append(taken)
            self._kept += taken.shape[0]
        while self._kept * rows.shape[1] > SAMPLE_ELEMENTS and self._kept > 1:
            self._parts = [torch.cat(self._parts)[::2]]
            self._kept = self._parts[0].shape[0]
            self._stride *= 2

    def rows(self) -> torch.Tensor:
        """The rows that were kept, [R, C].

        Raises:
            CalibrationError: Nothing was added.
        """
        if not self._parts:
            raise CalibrationError(NOTHING_OBSERVED)
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]

    def channel_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Exact minimum and maximum, [C] each.

        Raises:
            CalibrationError: Nothing was added.
        """
        if self._range is None:
            raise CalibrationError(NOTHING_OBSERVED)
        return self._range

    def range(self) -> tuple[float, float]:
        """Exact minimum and maximum over all channels.

        Raises:
            CalibrationError: Nothing was added.
        """
        low, high = self.channel_range()
        return float(low.min()), float(high.max())
