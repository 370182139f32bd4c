from __future__ import annotations

import pytest
import torch

from packqvit_delegate.models.swin import WindowAttention
from packqvit_delegate.serialization.score_bias import by_index, in_16_bits


def numbers(*shape: int) -> torch.Tensor:
    return torch.randint(-90000, 0, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int32)


@pytest.mark.parametrize("window", [3, 7, 12])
def test_relative_positions_are_kept_once(window: int) -> None:
    offsets = WindowAttention(8, 2, window).offsets()
    bias = numbers(4, (2 * window - 1) ** 2)[:, offsets]
    columns, index = by_index(bias)
    assert index is not None and index.dtype == (torch.uint8 if window < 8 else torch.int16)
    assert columns.shape == (4, (2 * window - 1) ** 2)
    assert torch.equal(columns[:, index.long()], bias)
    rows = index.long().unflatten(1, (window, window))
    assert bool((rows.diff(dim=-1) == 1).all())  # a kernel copies a row of keys at a time
    assert torch.equal(by_index(numbers(4, (2 * window - 1) ** 2).flip(0)[:, offsets])[1], index)  # type: ignore[arg-type]


def test_other_biases_stay_as_they_are() -> None:
    bias = numbers(2, 9, 9)
    columns, index = by_index(bias)
    assert index is None and columns is bias


@pytest.mark.parametrize(
    ("values", "shift"), [([-5, 0], 0), ([-32768, 0], 0), ([-65536, 2], 1), ([-(1 << 29), 0], 14), ([32767, -1], 0)]
)
def test_numbers_that_fit_into_16_bits(values: list[int], shift: int) -> None:
    stored, found = in_16_bits(torch.tensor(values, dtype=torch.int32))
    assert found == shift and stored.dtype == torch.int16
    assert (stored.int() << found).tolist() == values


@pytest.mark.parametrize("values", [[-65537, 0], [32769, 0], [-(1 << 29) - (1 << 15), 0]])
def test_numbers_that_do_not(values: list[int]) -> None:
    stored, shift = in_16_bits(torch.tensor(values, dtype=torch.int32))
    assert shift == 0 and stored.tolist() == values
