"""Signal-to-noise ratios, summed up over batches."""

from __future__ import annotations

import math

import torch

_TINY = 1e-12


class SignalToNoise:
    """Signal-to-noise ratio of values that come in batches; memory does not grow with their number."""

    def __init__(self, centred: bool) -> None:
        """Starts with nothing.

        Args:
            centred: The signal of a row is its variance, what a LayerNorm divides by; else its mean square.
        """
        self._centred = centred
        self._signal = self._noise = self._ratio = 0.0
        self._rows = 0

    def add(self, reference: torch.Tensor, value: torch.Tensor) -> None:
        """Takes rows (vectors along the last axis).

        Args:
            reference: float [..., C].
            value: float, of the same shape.
        """
        x, y = (t.double().reshape(-1, t.shape[-1]) for t in (reference, value))
        noise = (y - x).square().mean(1)
        signal = x.var(1, correction=0) if self._centred else x.square().mean(1)
        self._signal += float(signal.sum())
        self._noise += float(noise.sum())
        self._ratio += float((noise / signal.clamp_min(_TINY)).sum())
        self._rows += x.shape[0]

    def decibel(self) -> float:
        """All rows together: dominated by the rows with the largest values."""
        return _decibel(self._noise / max(self._signal, _TINY))

    def decibel_per_row(self) -> float:
        """Each row's noise over its own signal, then the mean over the rows."""
        return _decibel(self._ratio / max(self._rows, 1))


def _decibel(noise_share: float) -> float:
    return -10 * math.log10(max(noise_share, _TINY))
