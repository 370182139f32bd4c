"""Signal-to-noise ratios against hand-made values."""

from __future__ import annotations

import pytest
import torch

from packqvit_delegate.sensitivity.signal import SignalToNoise


def test_a_known_ratio() -> None:
    x = torch.tensor([[3.0, -3.0, 3.0, -3.0]])
    signal = SignalToNoise(centred=False)
    signal.add(x, x + 0.3)
    assert signal.decibel() == pytest.approx(20.0, abs=1e-4)
    assert signal.decibel_per_row() == pytest.approx(20.0, abs=1e-4)


def test_a_massive_token_decides_the_plain_ratio_only() -> None:
    x = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(100, 64, generator=torch.Generator().manual_seed(1))
    x[0] *= 1000  # one token in which noise of any size drowns
    signal = SignalToNoise(centred=True)
    signal.add(x, x + 0.1 * noise)
    assert signal.decibel() > 55
    assert signal.decibel_per_row() == pytest.approx(20.0, abs=1.0)


def test_a_constant_shift_of_all_channels_is_no_signal_of_the_stream() -> None:
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    ratios = []
    for centred in (True, False):
        signal = SignalToNoise(centred)
        signal.add(x + 100, x + 100.1)
        ratios.append(signal.decibel_per_row())
    assert ratios[0] == pytest.approx(20.0, abs=1.0) and ratios[1] > 55


def test_batches_add_up() -> None:
    x, y = (torch.randn(30, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    whole, parts = SignalToNoise(False), SignalToNoise(False)
    whole.add(x, y)
    for pair in zip(x.split(7), y.split(7), strict=True):
        parts.add(*pair)
    assert parts.decibel() == pytest.approx(whole.decibel())
    assert parts.decibel_per_row() == pytest.approx(whole.decibel_per_row())
