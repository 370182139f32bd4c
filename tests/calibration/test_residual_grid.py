"""The outlier-aware int8 grid of the residual stream."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from packqvit_delegate.quantizer.observers import ChannelShiftObserver

OUTLIER = 5
"""The channel that is large in every token."""


def _stream() -> Tensor:
    """Tokens [400, 32]; four of them are massive, as vision transformers have them in their late blocks."""
    tokens = torch.randn(400, 32, generator=torch.Generator().manual_seed(0))
    tokens[:, OUTLIER] *= 60
    tokens[::100] *= 100
    return tokens


def _observe(stream: Tensor, max_shift: int) -> ChannelShiftObserver:
    observer = ChannelShiftObserver(max_shift)
    observer(stream)
    return observer


def _error(stream: Tensor, observer: ChannelShiftObserver) -> Tensor:
    """Squared error over the variance, for each token."""
    return (observer.fake_quantize(stream) - stream).square().mean(1) / stream.var(1, correction=0)


@pytest.mark.parametrize("max_shift", [4, 5, 7])
def test_a_few_massive_tokens_do_not_decide_for_all(max_shift: int) -> None:
    stream = _stream()
    ordinary = torch.arange(len(stream)) % 100 != 0
    alone = _error(stream[ordinary], _observe(stream[ordinary], max_shift))
    together = _error(stream, _observe(stream, max_shift))[ordinary]
    assert together.mean() < 2 * alone.mean()


def test_channels_that_are_large_get_shifts() -> None:
    stream = _stream()[1:100]
    scale, shift = _observe(stream, 7).scale_and_shift()
    assert shift[OUTLIER] >= 5
    assert shift[torch.arange(32) != OUTLIER].max() <= 1
    assert scale * 2.0 ** float(shift[OUTLIER]) * 127 > 0.9 * float(stream.abs().max())


@pytest.mark.parametrize("max_shift", [0, 2])
def test_shifts_end_where_they_are_told_to(max_shift: int) -> None:
    assert _observe(_stream(), max_shift).scale_and_shift()[1].max() == max_shift


def test_tokens_of_equal_channels_are_no_division_by_zero() -> None:
    scale, shift = _observe(torch.ones(6, 4), 7).scale_and_shift()
    assert 0 < scale < 1 and shift.dtype == torch.uint8
