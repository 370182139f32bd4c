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
        row_size: Bytes of one row.
        chain_first, chain_last: The same with every chain of row-wise nodes taken as one moment; None: no chain. The
            threads of a chain are at different nodes at a time, each with rows of its own.
        is_local: The runtime may keep the rows that a thread works on in scratch memory, and leave the arena alone.
    """

    size: int
    first: int
    last: int
    row_size: int = 0
    chain_first: int | None = None
    chain_last: int | None = None
    is_local: bool = False

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are alive during some node."""
        return self.first <= other.last and other.first <= self.last

    def overlaps_in_chain(self, other: Lifetime) -> bool:
        """Whether both may be alive at once for threads in different places of a chain."""
        first, last = self._extended()
        other_first, other_last = other._extended()
        return first <= other_last and other_first <= last

    def _extended(self) -> tuple[int, int]:
        first = self.first if self.chain_first is None else self.chain_first
        return first, self.last if self.chain_last is None else self.chain_last


def plan_arena(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets such that buffers alive at the same time do not overlap.

    Greedy by size: the largest buffer first, each at the lowest offset that is free for its whole life (Pisarchyk and
    Lee, Efficient Memory Management for Deep Neural Net Inference, 2020). Buffers that are alive at once only for
    threads in different places of a chain may share memory if their rows coincide: each thread keeps to its rows.
    Local ones come last, so that the others lie close: what is never written takes no memory.

    Args:
        lifetimes: One a buffer.

    Returns:
        Offsets in bytes, multiples of 64, in the order given; and the size of the arena.
    """
    offsets = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (lifetimes[i].is_local, -lifetimes[i].size, i)):
        current = lifetimes[index]
        neighbours = [i for i in placed if lifetimes[i].overlaps_in_chain(current)]
        candidates = {0}
        for i in neighbours:
            candidates |= {offsets[i], offsets[i] + _aligned(lifetimes[i].size)}
        offsets[index] = next(
            offset
            for offset in sorted(candidates)
            if all(_may_lie(current, offset, lifetimes[i], offsets[i]) for i in neighbours)
        )
        placed.append(index)
    return offsets, max((offsets[i] + _aligned(lifetimes[i].size) for i in placed), default=0)


def _may_lie(buffer: Lifetime, offset: int, other: Lifetime, other_offset: int) -> bool:
    if offset + _aligned(buffer.size) <= other_offset or other_offset + _aligned(other.size) <= offset:
        return True
    coincide = offset == other_offset and buffer.row_size == other.row_size
    return coincide and not buffer.overlaps(other)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
