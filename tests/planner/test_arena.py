"""The arena: buffers that are needed at once never overlap, chains included, and little memory is lost."""

from __future__ import annotations

import random

import pytest

from packqvit_delegate.planner import ALIGNMENT, Lifetime, plan_arena


def disjoint(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] + a[1] <= b[0] or b[0] + b[1] <= a[0]


def random_lifetimes(source: random.Random) -> list[Lifetime]:
    nodes = 30
    chains = []  # (first, last)
    at = 0
    while at < nodes:
        length = source.choice([1, 1, 2, 5, 8])
        chains.append((at, min(at + length, nodes) - 1))
        at += length
    chain_of = [chain for chain in chains for _ in range(chain[0], chain[1] + 1)]
    lifetimes = []
    for first in range(nodes):
        last = min(nodes - 1, first + source.choice([0, 1, 1, 2, 7]))
        row = source.choice([64, 192, 768])
        lifetimes.append(Lifetime(row * 50, first, last, row, chain_of[first][0], chain_of[last][1]))
    return lifetimes


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_is_needed_at_once_overlaps(seed: int) -> None:
    lifetimes = random_lifetimes(random.Random(seed))
    offsets, size = plan_arena(lifetimes)
    assert all(offset % ALIGNMENT == 0 for offset in offsets)
    for i, a in enumerate(lifetimes):
        assert offsets[i] + a.size <= size
        for j, b in enumerate(lifetimes[:i]):
            apart = disjoint((offsets[i], a.size), (offsets[j], b.size))
            if a.overlaps(b):
                assert apart, (a, b)
            elif a.overlaps_in_chain(b):
                assert apart or (offsets[i] == offsets[j] and a.row_size == b.row_size), (a, b)


def test_buffers_of_different_times_share_memory() -> None:
    lifetimes = [Lifetime(1000, 0, 1), Lifetime(1000, 1, 2), Lifetime(1000, 2, 3), Lifetime(1000, 3, 4)]
    _, size = plan_arena(lifetimes)
    assert size == 2 * 1024


def test_rows_that_coincide_share_memory_inside_a_chain() -> None:
    def lifetime(first: int, last: int, row: int) -> Lifetime:
        return Lifetime(10 * row, first, last, row, 0, 5)

    _, same = plan_arena([lifetime(0, 1, 64), lifetime(2, 3, 64)])
    assert same == 640
    _, different = plan_arena([lifetime(0, 1, 64), lifetime(2, 3, 128)])
    assert different == 640 + 1280


def test_an_empty_plan_needs_no_memory() -> None:
    assert plan_arena([]) == ([], 0)
