"""The figures of a comparison: rows, markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.sensitivity.report import divergence

from .contestants import OURS

DESTROYED = "destroyed"


@dataclass(frozen=True)
class Judgement:
    """How good a program's answers are.

    Attributes:
        top1: Percent of the images.
        same: Percent with the float model's answer.
        nats: Mean divergence of the class probabilities from the float model's.
    """

    top1: float
    same: float
    nats: float

    @classmethod
    def of(cls, logits: Tensor, reference: Tensor, labels: Sequence[int]) -> Judgement:
        """Compares logits [n, classes] with the float model's, and with the labels."""
        classes = logits.argmax(1)
        right, same = (classes == torch.tensor(labels)), (classes == reference.argmax(1))
        nats = divergence(reference.double(), logits.double()).mean()
        return cls(100 * right.double().mean().item(), 100 * same.double().mean().item(), nats.item())


@dataclass(frozen=True)
class Row:
    """One program."""

    name: str
    judgement: Judgement
    median_ms: float
    min_ms: float
    size: int

    @property
    def ours(self) -> bool:
        """Whether it is one of ours."""
        return self.name in OURS


@dataclass(frozen=True)
class Comparison:
    """All programs of one model, and what they were measured on.

    Attributes:
        model: Its name.
        float_top1: Of the float model in PyTorch, percent.
        images: How many were evaluated.
        calibration_images: How many each program was calibrated with.
        cpu: Its name.
        tier: Of our kernels.
        versions: Of all libraries.
        date: ISO.
        rows: In the order of the table.
    """

    model: str
    float_top1: float
    images: int
    calibration_images: int
    cpu: str
    tier: str | None
    versions: dict[str, str]
    date: str
    rows: list[Row]

    def is_destroyed(self, row: Row) -> bool:
        """Whether quantisation cost a program more than half of the float model's right answers."""
        return row.judgement.top1 < self.float_top1 / 2

    def markdown(self) -> str:
        """The table, with a line under it that says what it is of."""
        reference = next((row for row in self.rows if row.ours), None)
        ratio = "" if reference is None else f" time / {reference.name} |"
        lines = [
            f"| | top-1 | same answer as float | nats | ms, median | least |{ratio} MB |",
            "|---|---|---|---|---|---|" + "---|" * bool(reference) + "---|",
        ]
        for row in self.rows:
            name = f"**{row.name}**" if row.ours else row.name
            if self.is_destroyed(row):
                name += f" ({DESTROYED})"
            judged = row.judgement
            cells = [name, f"{judged.top1:.1f} %", f"{judged.same:.1f} %", _nats(judged.nats)]
            cells += [f"{row.median_ms:.1f}", f"{row.min_ms:.1f}"]
            if reference is not None:
                cells.append(f"{row.median_ms / reference.median_ms:.2f}")
            lines.append(f"| {' | '.join([*cells, f'{row.size / 1e6:.2f}'])} |")
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines += [
            "",
            f"{self.model}, float {self.float_top1:.1f} %; {self.calibration_images} images to calibrate with, "
            f"{self.images} others to evaluate on (standard error {self.standard_error():.1f} points). One image "
            f"on one thread, all programs in turn, {self.cpu}, tier `{self.tier}`; {self.date}; {versions}.",
        ]
        if any(self.is_destroyed(row) for row in self.rows):
            lines += ["", f"({DESTROYED}): less than half of the float model's right answers are left."]
        return "\n".join(lines) + "\n"

    def standard_error(self) -> float:
        """Of the float model's top-1, in points."""
        share = self.float_top1 / 100
        return 100 * float((share * (1 - share) / self.images) ** 0.5)

    def write(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Comparison:
        """Reads what `write` wrote."""
        fields = json.loads(path.read_text())
        rows = [Row(**{**row, "judgement": Judgement(**row["judgement"])}) for row in fields.pop("rows")]
        return cls(**fields, rows=rows)


def _nats(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def replace_section(page: Path, name: str, text: str) -> None:
    """Puts a text between the lines `<!-- begin NAME -->` and `<!-- end NAME -->` of a page.

    Raises:
        PackQViTError: The page does not have them.
    """
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise PackQViTError(f"{page} has no lines {begin.strip()} and {end}, between which the table goes")
    page.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
