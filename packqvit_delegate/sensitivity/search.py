"""Which layers get 8 bits: the most useful ones that two budgets, of bytes and of time, allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .widths import Choice


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
        return max(choice.extra_bytes / max(self.extra_bytes, 1) + choice.macs / max(self.macs, 1), 1e-6)


def select(gains: Mapping[Choice, float], budget: Budget) -> list[Choice]:
    """The layers that get 8 bits: the largest gain per share of the budget first, as long as it lasts.

    Args:
        gains: What 8 bits win back, for each layer alone.
        budget: What they may cost.

    Returns:
        Layers in the order in which they were chosen; ties fall to the earlier one.
    """
    chosen, left = [], budget
    for choice in sorted(gains, key=lambda choice: -gains[choice] / budget.share(choice)):
        if gains[choice] > 0 and left.allows(choice):
            chosen.append(choice)
            left = left.without(choice)
    return chosen
