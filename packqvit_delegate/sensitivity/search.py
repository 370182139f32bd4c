"""Which layers get 8 bits: the most useful ones that two budgets, of bytes and of time, allow."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Sequence

from ..progress import Progress, silent
from .simulation import Simulation
from .widths import Choice

_LEAST_GAIN = 0.002
"""A layer that wins back less of the first loss than this is left alone: it may be chance."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """What 8 bits may cost.

    Attributes:
        extra_bytes: All weights together may grow by so many bytes.
        macs: At most so many multiply-accumulates may move from 4-bit to 8-bit activations.
    """

    extra_bytes: int
    macs: int

    def allows(self, choice: Choice) -> bool:
        """Whether a layer is within the budget."""
        return choice.extra_bytes <= self.extra_bytes and choice.macs <= self.macs

    def without(self, choice: Choice) -> Budget:
        """What is left when a layer has been paid for."""
        return Budget(self.extra_bytes - choice.extra_bytes, self.macs - choice.macs)

    def share(self, choice: Choice) -> float:
        """How much of both budgets a layer takes; never 0."""
        return max(choice.extra_bytes / max(self.extra_bytes, 1) + choice.macs / max(self.macs, 1), 1e-4)


@dataclasses.dataclass(frozen=True)
class Step:
    """A layer that was given 8 bits.

    Attributes:
        choice: The layer.
        loss: With it and all before it, on the images of the search.
    """

    choice: Choice
    loss: float


def search(
    simulation: Simulation, each: Sequence[Choice], budget: Budget, progress: Progress | None = None
) -> tuple[float, list[Step]]:
    """Gives layers 8 bits one after the other, the largest gain per share of the budget first.

    A gain is measured again, beside all layers that were chosen before, when the layer's turn comes; layers behind the
    leader wait with the gain that they had last (lazy greedy search: Minoux, 1978).

    Args:
        simulation: Measures losses.
        each: What may be chosen.
        budget: What it may cost.
        progress: Wraps the loops.

    Returns:
        The loss with none, and the layers in the order in which they were chosen. Ties fall to the earlier layer.
    """
    progress = progress or silent
    initial = simulation.loss()
    affordable = [choice for choice in each if budget.allows(choice)]
    alone = simulation.losses(affordable, progress)
    gains = [(choice, initial - loss) for choice, loss in zip(affordable, alone, strict=True)]
    return initial, list(progress(_choose(simulation, initial, gains, budget), "choosing layers", None))


def _choose(
    simulation: Simulation, initial: float, gains: Sequence[tuple[Choice, float]], budget: Budget
) -> Iterator[Step]:
    chosen: list[Choice] = []
    loss, left = initial, budget
    # Gain per share of the budget, negative so that the largest is first; tie break; with how many chosen; layer.
    waiting = [(-gain / budget.share(c), i, 0, c) for i, (c, gain) in enumerate(gains) if gain > _LEAST_GAIN * initial]
    heapq.heapify(waiting)
    with_leader: dict[int, float] = {}
    while waiting:
        _, index, measured_with, choice = heapq.heappop(waiting)
        if not left.allows(choice):
            continue
        if measured_with == len(chosen) and index in with_leader:
            chosen.append(choice)
            left, loss = left.without(choice), with_leader.pop(index)
            yield Step(choice, loss)
            continue
        with_leader[index] = simulation.loss([*chosen, choice])
        gain = loss - with_leader[index]
        if gain > _LEAST_GAIN * initial:
            heapq.heappush(waiting, (-gain / budget.share(choice), index, len(chosen), choice))
