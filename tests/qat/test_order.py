"""Which images each step takes."""

from __future__ import annotations

import pytest
import torch

from packqvit_delegate.qat.order import StepSampler, stream


def test_an_epoch_takes_every_image_at_most_once_and_in_an_order_of_its_own() -> None:
    steps = list(StepSampler(21, 4, range(10), seed=3))
    epochs = [sum(steps[:5], []), sum(steps[5:], [])]
    assert all(len(set(epoch)) == 20 and set(epoch) <= set(range(21)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("first", [1, 5, 7])
def test_a_training_goes_on_anywhere(first: int) -> None:
    steps = list(StepSampler(21, 4, range(10), seed=3))
    later = StepSampler(21, 4, range(first, 10), seed=3)
    assert len(later) == 10 - first and list(later) == steps[first:]


def test_processes_share_a_batch() -> None:
    whole = list(StepSampler(40, 6, range(8), seed=1))
    shares = [list(StepSampler(40, 3, range(8), seed=1, rank=rank, processes=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert sorted(shares[0][step] + shares[1][step]) == sorted(batch)


def test_streams_differ_by_every_index() -> None:
    seeds = [(0, 1), (1, 0), (0, 0), (1, 1), (0, 0, 0)]
    draws = [float(torch.rand((), generator=stream(*indices), dtype=torch.float64)) for indices in seeds]
    assert len(set(draws)) == len(seeds)
