"""The page itself: what is shown, and the template that it is put into."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ..arguments import checked
from ..errors import PackQViTError
from ..files import check_writable, replacing
from ..outside import FEW, OutsideOperator, grouped
from ..report import DelegationReport, Source
from ..runtime.profile import by_kind
from ..sensitivity.report import OperatorLoss, SensitivityReport
from ..sensitivity.roles import ROLES
from .judgement import Judgement
from .operators import Row, operator_rows
from .thumbnails import SIDE, thumbnail
from .timing import Timing

ENDING = ".html"
TEMPLATE = Path(__file__).with_name("page.html")
PICTURES = 24
"""So many pictures with other answers are shown: a page of half a megabyte."""
CONFUSIONS = 10
PACKAGES = {
    "PackQViT delegate": "packqvit-delegate",
    "ExecuTorch": "executorch",
    "PyTorch": "torch",
    "torchao": "torchao",
}

_BEST, _WORST = 30.0, 6.0
"""Decibels from which on a cell of the errors has no colour, and all of it."""
_EXACT = 100.0


@checked
def check_page(path: str | Path) -> None:
    """Says before any work whether a page can be written.

    Raises:
        PackQViTError: Its name has another ending, its folder does not exist, or the file may not be written.
    """
    if Path(path).suffix.lower() != ENDING:
        raise PackQViTError(f"the report {path} is a web page: its name has to end in {ENDING}")
    check_writable(path)


@checked
def write_page(
    path: str | Path,
    report: DelegationReport,
    source: Source,
    judged: Judgement | None,
    timing: Timing | None,
    figures: Sequence[tuple[str, str]],
) -> None:
    """Writes the page of a program.

    Args:
        path: Ends in `.html`.
        report: What is in the delegate.
        source: The program.
        judged: What it says to labelled images.
        timing: How long it takes.
        figures: More lines of its accuracy, names and values.

    Raises:
        PackQViTError: As `check_page`; or a picture can no longer be read.
    """
    check_page(path)
    text = render(report, source, judged, timing, figures)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def render(
    report: DelegationReport,
    source: Source,
    judged: Judgement | None = None,
    timing: Timing | None = None,
    figures: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as text; arguments as for `write_page`."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"size": _size, "percent": _percent, "decibel": _decibel, "shape": _shape}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    rows = operator_rows(source.integer_module)
    return template.render(
        title=_title(source),
        made=f"{source.made:%Y-%m-%d %H:%M %Z}".strip(),
        facts=_facts(source, timing),
        file_size=len(source.program.buffer),
        report=report,
        outside=_outside(report.outside),
        fallbacks=[(fallback, _outside(fallback.operators)) for fallback in report.fallbacks],
        judged=judged,
        figures=figures,
        confusions=judged.confusions(CONFUSIONS) if judged else [],
        pictures=_pictures(judged) if judged else [],
        side=SIDE,
        timing=timing,
        kinds=_kinds(timing) if timing else [],
        rows=rows,
        widths=_widths(rows),
        losses=source.losses,
        loss_of={loss.node: loss for loss in source.losses.operators} if source.losses else {},
        blocks=_blocks(source.losses) if source.losses else None,
    )


def _title(source: Source) -> str:
    info = source.metadata
    widths = "" if info.weight_bits is None else f"W{info.weight_bits}A{info.activation_bits}"
    return f"{info.model or 'A quantised model'} {widths}".strip()


def _facts(source: Source, timing: Timing | None) -> list[tuple[str, str]]:
    """Of the head of the page: names and values."""
    info = source.metadata
    facts = [("Model", info.model or "not named")]
    if info.weight_bits is not None:
        facts.append(("Widths", f"{info.weight_bits}-bit weights, {info.activation_bits}-bit activations"))
    for node in source.integer_module.graph.find_nodes(op="placeholder"):
        value = node.meta["val"]
        facts.append(("Input", f"{str(value.dtype).removeprefix('torch.')} {_shape(value.shape)}"))
    if info.top_k is not None:
        facts.append(("Gives", f"the best {info.top_k} classes and their scores"))
    elif info.task is not None:
        facts.append(("Gives", {"classification": "scores of classes", "features": "features"}[info.task]))
    if timing is not None:
        facts.append(("Measured on", f"{timing.cpu}, {timing.tier} kernels"))
    return [*facts, *((name, _version(package)) for name, package in PACKAGES.items())]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclasses.dataclass(frozen=True)
class _Outside:
    """A line of the table of what is not in integers."""

    operators: str
    where: str
    reason: str


def _outside(operators: Sequence[OutsideOperator]) -> list[_Outside]:
    """A line for each operator where they are few, one for each group where they are many."""
    if len(operators) <= FEW:
        return [_Outside(item.operator, item.module or "the model itself", item.reason) for item in operators]
    return [_Outside(group.counts, group.places, group.reason) for group in grouped(operators)]


def _kinds(timing: Timing) -> list[tuple[str, int, float, float]]:
    """Kind of operator, how many, milliseconds, share of all."""
    kinds = by_kind(timing.operators)
    total = sum(kind.total for kind in kinds) or 1.0
    return [(kind.kind, kind.count, kind.total, kind.total / total) for kind in kinds]


def _widths(rows: Sequence[Row]) -> list[tuple[int, int, int]]:
    """Bits, layers and bytes of the weights."""
    weights = [row.weights for row in rows if row.weights]
    widths = sorted({weight.bits for weight in weights})
    return [
        (bits, sum(w.bits == bits for w in weights), sum(w.size for w in weights if w.bits == bits)) for bits in widths
    ]


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """The errors of the blocks: a column for each role, a row for each block, a cell for what is there."""

    roles: list[str]
    rows: list[list[tuple[float, float] | None]]


def _blocks(losses: SensitivityReport) -> _Blocks | None:
    """Decibels of each operator alone, and how much of the colour of errors that is; None of a model without blocks."""
    inner = [loss for loss in losses.operators if 0 <= loss.block < losses.blocks]
    roles = [role for role in ROLES if any(loss.role == role for loss in inner)]
    by_place = {(loss.block, loss.role): loss for loss in inner}

    def cell(loss: OperatorLoss | None) -> tuple[float, float] | None:
        if loss is None:
            return None
        return loss.own_snr, min(1.0, max(0.0, (_BEST - loss.own_snr) / (_BEST - _WORST)))

    rows = [[cell(by_place.get((block, role))) for role in roles] for block in range(losses.blocks)]
    return _Blocks(roles, rows) if roles else None


def _pictures(judged: Judgement) -> list[dict[str, Any]]:
    return [
        {
            "source": thumbnail(judged.folder.files[change.index], judged.preprocessing),
            "file": _relative(judged.folder.files[change.index], judged.folder.root),
            "change": change,
        }
        for change in judged.changes()[:PICTURES]
    ]


def _relative(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else file.name


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _decibel(figure: float) -> str:
    return "exact" if figure >= _EXACT else f"{figure:.1f}"


def _shape(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))
