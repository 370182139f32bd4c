"""What training looked like."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class History:
    """Curves of a training; a resumed one goes on where the interrupted one ended.

    Attributes:
        losses: Of each step, on this process's share of the batch.
        rates: The learning rates of each step over their highest.
        checks: (steps done, what `evaluate` found).
    """

    losses: list[float] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)
    checks: list[tuple[int, float]] = dataclasses.field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Its fields."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the fields of another one."""
        self.losses, self.rates = list(state["losses"]), list(state["rates"])
        self.checks = [(step, value) for step, value in state["checks"]]
