"""Tables, JSON and plot of the model benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from packqvit_delegate.pictures import picture
from packqvit_delegate.report_page.timing import cpu_name

from .contestants import OURS
from .operators import Shares
from .timing import Timing


@dataclass
class Results:
    """Everything that was measured for one model."""

    model: str
    tier: str | None
    timings: list[Timing] = field(default_factory=list)
    peak_memory: dict[str, float] = field(default_factory=dict)
    operators: dict[str, Shares] = field(default_factory=dict)

    def of(self, name: str, threads: int) -> Timing | None:
        """The timing of one contestant."""
        return next((t for t in self.timings if (t.name, t.threads) == (name, threads)), None)

    def threads(self) -> list[int]:
        """The thread counts that were measured."""
        return sorted({timing.threads for timing in self.timings})


def ratio(results: Results, timing: Timing, name: str) -> float | None:
    """How many times as long as one of our programs a contestant takes, by the medians of the same threads."""
    ours = results.of(name, timing.threads)
    return None if ours is None else timing.median / ours.median


def speed_up(results: Results, timing: Timing) -> float | None:
    """The median on one thread over that on the timing's threads."""
    single = results.of(timing.name, 1)
    return None if single is None or timing.threads == 1 else single.median / timing.median


def latency_table(results: Results, threads: int) -> Table:
    """Medians and minima, and ratios to each of our presets that was measured."""
    presets = [name for name in OURS if results.of(name, threads)]
    table = Table(
        title=f"{results.model}, {threads} thread{'s' if threads > 1 else ''}, tier {results.tier}: ms",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("", no_wrap=True)
    columns = ["median", "min", "CPU" if threads == 1 else "speed-up", *(f"/ {preset}" for preset in presets)]
    if threads == 1:
        columns.append("MiB")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for timing in results.timings:
        if timing.threads != threads:
            continue
        third = timing.cpu_median if threads == 1 else speed_up(results, timing)
        cells = [timing.median, timing.minimum, third, *(ratio(results, timing, preset) for preset in presets)]
        row = [_number(cell) for cell in cells]
        if threads == 1:
            row.append(_number(results.peak_memory.get(timing.name), digits=1))
        table.add_row(timing.name, *row, style="bold" if timing.name in OURS else "")
    return table


def operator_table(results: Results) -> Table:
    """Milliseconds and share of each kind of operator, for each of our presets."""
    presets = list(results.operators)
    table = Table(title=f"{results.model}, where the time goes, 1 thread, tier {results.tier}", box=box.SIMPLE_HEAD)
    table.add_column("operator", no_wrap=True)
    for preset in presets:
        table.add_column(f"{preset} ms", justify="right")
        table.add_column("%", justify="right")
    kinds = list(dict.fromkeys(kind for shares in results.operators.values() for kind in shares))
    sums = {preset: sum(results.operators[preset].values()) for preset in presets}
    for kind in kinds:
        row = []
        for preset in presets:
            time = results.operators[preset].get(kind, 0.0)
            row += [f"{time:.3f}", f"{100 * time / sums[preset]:.1f}"]
        table.add_row(kind, *row)
    table.add_section()
    table.add_row("sum", *(cell for preset in presets for cell in (f"{sums[preset]:.3f}", "")))
    return table


def write_json(results: Results, path: Path) -> None:
    """Writes medians, minima and ratios, and what they were measured on."""
    timings: list[dict[str, Any]] = []
    for timing in results.timings:
        timings.append(
            {
                "name": timing.name,
                "threads": timing.threads,
                "runs": len(timing.wall_ms),
                "median_ms": timing.median,
                "min_ms": timing.minimum,
                "cpu_median_ms": timing.cpu_median if timing.threads == 1 else None,
                "ratios": {name: ratio(results, timing, name) for name in OURS if results.of(name, timing.threads)},
                "speed_up": speed_up(results, timing),
            }
        )
    document = {
        "model": results.model,
        "tier": results.tier,
        "cpu": cpu_name(),
        "versions": versions(),
        "timings": timings,
        "peak_memory_mib": results.peak_memory,
        "operators_ms": results.operators,
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def plot(results: Sequence[Results], path: Path) -> None:
    """One panel for each model and number of threads: horizontal bars, the fastest on top, ours in colour."""
    panels = [(result, threads) for result in results for threads in result.threads()]
    height = sum(0.34 * len(result.timings) / len(result.threads()) + 0.8 for result, _ in panels)
    with picture(path, (len(panels), 1), (8, height), squeeze=False) as (_, axes):
        for axis, (result, threads) in zip(axes[:, 0], panels, strict=True):
            timings = sorted((t for t in result.timings if t.threads == threads), key=lambda t: t.median)
            colors = ["#1f6f54" if t.name in OURS else "#b8bec4" for t in timings]
            bars = axis.barh([t.name for t in timings], [t.median for t in timings], color=colors, height=0.72)
            axis.bar_label(bars, [f" {t.median:.2f} ms" for t in timings], fontsize=9)
            axis.invert_yaxis()
            axis.set_xlim(0, 1.14 * timings[-1].median)
            axis.set_title(f"{result.model}, {threads} thread{'s' if threads > 1 else ''}", loc="left", fontsize=11)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(axis="y", length=0)
        axes[-1, 0].set_xlabel("median latency of one image, ms (lower is better)")


def versions() -> dict[str, str]:
    """Of us and the peers that are installed."""
    found = {}
    for name in ("packqvit-delegate", "executorch", "torch", "torchao", "onnxruntime", "openvino", "nncf"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"
