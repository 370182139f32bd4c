"""Places activations in one arena by their lifetimes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

ALIGNMENT = 64


@dataclasses.dataclass(frozen=True)
class Lifetime:
    """A buffer and when it is needed.

    Attributes:
        size: Bytes.
        first: Index of the node that writes it.
        last: Index of the last node that reads it; at least `first`.
    """

    size: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive during some node."""
        return self.first <= other.last and other.first <= self.last


def plan_arena(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets such that buffers alive at the same time do not overlap.

    Greedy by size: the largest buffer first, each at the lowest offset that is free for its whole life (Pisarchyk and
    Lee, Efficient Memory Management for Deep Neural Net Inference, 2020).

    Args:
        lifetimes: One a buffer.

    Returns:
        Offsets in bytes, multiples of 64, in the order given; and the size of the arena.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size, i)):
        current = lifetimes[index]
        neighbours = sorted((offsets[i], _aligned(lifetimes[i].size)) for i in placed if lifetimes[i].overlaps(current))
        offset = 0
        for start, size in neighbours:
            if start - offset >= _aligned(current.size):
                break
            offset = max(offset, start + size)
        offsets[index] = offset
        placed.append(index)
    return offsets, max((offsets[i] + _aligned(lifetimes[i].size) for i in placed), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
