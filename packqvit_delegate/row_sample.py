"""A bounded, deterministic sample of a stream of tensors."""

from __future__ import annotations

import torch

from .errors import CalibrationError

SAMPLE_ELEMENTS = 1 << 18
"""A sample keeps about this many values."""

FEW_ROWS = 128
"""Fewer rows than these do not show how far values go: behind a pooling there is one an image."""

ENOUGH_ROWS = 1024
"""So many rows show how far each of many channels goes; tensors as a whole have their extremes from all channels."""

_DEVIATIONS = 3.3
"""So many standard deviations from its mean lie the extremes of a thousand normal values."""

_STUDENT = 3.8
"""A share of 1 / 1000 of Student's t lies beyond _DEVIATIONS * (1 + _STUDENT / degrees of freedom), within 3 % from 5
degrees on."""

_PRIOR_ROWS = 4
"""The variance of a channel over few rows counts beside the mean of all channels', which counts as so many rows."""

NOT_FINITE = "a calibration input leads to NaN or infinite activations; check the weights and the normalisation"
NOTHING_OBSERVED = "no calibration data was run through the prepared model before convert"


class RowSample:
    """Rows (vectors along the last axis), evenly spread over everything that was added.

    Memory is bounded: when the sample is full every second row is dropped and half as many are taken from then on.
    The exact minimum and maximum per channel are kept besides, so that no outlier is missed.

    Few rows do not have the extremes that many will have. Below FEW_ROWS the range of a channel is that of a prediction
    interval for a thousand rows, m +- t sqrt(1 + 1 / n) s with m and s the mean and the deviation of n rows and t a
    quantile of Student's distribution, if that is wider than what was seen; s is drawn to what all channels have
    (Smyth, "Linear models and empirical Bayes methods", 2004). And the ends of it are two more rows of the sample, so
    that a search for the range of least error does not cut off what only the few rows lack.
    """

    def __init__(self, complete: bool = False) -> None:
        """Starts empty.

        Args:
            complete: However few rows are added, there will be no others.
        """
        self._complete = complete
        self._parts: list[torch.Tensor] = []
        self._kept = 0
        self.count = 0
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
        self.count += rows.shape[0]
        taken = rows[self._phase :: self._stride].clone()
        self._phase = (self._phase - rows.shape[0]) % self._stride
        if taken.shape[0]:
            self._parts.append(taken)
            self._kept += taken.shape[0]
        while self._kept * rows.shape[1] > SAMPLE_ELEMENTS and self._kept > 1:
            self._parts = [torch.cat(self._parts)[::2]]
            self._kept = self._parts[0].shape[0]
            self._stride *= 2

    def rows(self, enough: int = FEW_ROWS) -> torch.Tensor:
        """The rows that were kept, and the ends of the range where they are few, [R, C].

        Args:
            enough: As for `channel_range`.

        Raises:
            CalibrationError: Nothing was added.
        """
        kept = self._kept_rows()
        return torch.cat([kept, torch.stack(self.channel_range(enough))]) if self._lacks(enough) else kept

    @property
    def is_small(self) -> bool:
        """Whether the rows are too few to show how far values go."""
        return self._lacks(FEW_ROWS)

    def _lacks(self, enough: int) -> bool:
        return self.count < enough and not self._complete

    def _kept_rows(self) -> torch.Tensor:
        if not self._parts:
            raise CalibrationError(NOTHING_OBSERVED)
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]

    def channel_range(self, enough: int = FEW_ROWS) -> tuple[torch.Tensor, torch.Tensor]:
        """Minimum and maximum, [C] each: exact, and of few rows what many would have.

        Args:
            enough: Fewer rows than these are few. ENOUGH_ROWS where each channel gets an 8-bit grid of its own: of 192
                channels, three are beyond the extremes of 128 rows in every new row.

        Raises:
            CalibrationError: Nothing was added.
        """
        if self._range is None:
            raise CalibrationError(NOTHING_OBSERVED)
        if not self._lacks(enough):
            return self._range
        rows = self._kept_rows()
        mean, freedom = rows.mean(0), len(rows) - 1
        # The channels of a single row have to stand for what a channel does over rows.
        variance = rows.var(0) if freedom else rows.var(correction=0).expand(rows.shape[1])
        freedom += _PRIOR_ROWS
        variance = (variance * (freedom - _PRIOR_ROWS) + variance.mean() * _PRIOR_ROWS) / freedom
        half = _DEVIATIONS * (1 + _STUDENT / freedom) * ((1 + 1 / len(rows)) * variance).sqrt()
        return torch.minimum(self._range[0], mean - half), torch.maximum(self._range[1], mean + half)

    def range(self) -> tuple[float, float]:
        """Minimum and maximum over all channels, as `channel_range` has them.

        Raises:
            CalibrationError: Nothing was added.
        """
        low, high = self.channel_range()
        return float(low.min()), float(high.max())
