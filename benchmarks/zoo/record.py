"""What trying one model at one preset showed."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Record:
    """One model at one preset.

    Attributes:
        name: Of the entry.
        preset: W8A8 and so on.
        error: Why there is no program, or why it does not run; "" where it does.
        is_refused: Whether `error` is the product's own sentence, and not one from inside of it.
        delegates: Calls of the integer delegate in one inference.
        operators: In them.
        fallbacks: Calls of XNNPACK's delegate, which takes what it can of the rest.
        floats: Operators that are not in integers, XNNPACK's included.
        reasons: Why, with the number of operators and where they are; the most frequent first.
        decibels: Signal to noise of each output against the float model.
        is_exact: Whether the runtime's outputs are the integer graph's, bit by bit.
        size: Of the program, bytes.
        ms: One image on one thread, median.
        peer_ms: The same of XNNPACK int8 dynamic, in the same run.
    """

    name: str
    preset: str
    error: str = ""
    is_refused: bool = False
    delegates: int = 0
    operators: int = 0
    fallbacks: int = 0
    floats: int = 0
    reasons: list[str] = field(default_factory=list)
    decibels: list[float] = field(default_factory=list)
    is_exact: bool = False
    size: int = 0
    ms: float | None = None
    peer_ms: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the program is one delegate call and nothing else."""
        return not self.error and self.delegates == 1 and not self.floats

    def summary(self) -> str:
        """A line for a terminal."""
        if self.error:
            return f"{self.name}: {'refused' if self.is_refused else 'FAILED'}: {self.error.splitlines()[0][:200]}"
        kind = "whole" if self.is_whole else f"{self.delegates} calls, {self.floats} operators in float"
        exact = ", bit by bit" if self.is_exact else ", bits differ"
        return f"{self.name}: {kind}, {' and '.join(f'{value:.1f}' for value in self.decibels)} dB{exact}"

    @property
    def stem(self) -> str:
        """Of its files."""
        return stem(self.name)

    def write(self, folder: Path) -> None:
        """Writes JSON."""
        (folder / f"{self.stem}.json").write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path, name: str) -> Record | None:
        """Reads what `write` wrote, or None."""
        path = folder / f"{stem(name)}.json"
        return cls(**json.loads(path.read_text())) if path.exists() else None


def stem(name: str) -> str:
    """A file's name from a model's."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_")
