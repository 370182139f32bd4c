"""The picture of a comparison: accuracy against time, area by file size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packqvit_delegate.pictures import picture

from .comparison import Comparison, Row

COLOURS = {"ours": "#0072B2", "XNNPACK": "#E69F00", "ONNX Runtime": "#009E73", "OpenVINO": "#CC79A7"}
"""Of Okabe and Ito, which people with any colour vision tell apart."""
POINTS_PER_MB = 45.0
"""Area of a bubble, in square points."""
KEY_SIZES = (3, 10)
ROOM = 4.0
"""Points of accuracy below the lowest program that is not destroyed."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels."""


def draw(comparison: Comparison, path: Path) -> None:
    """Draws all programs; those whose accuracy is destroyed at the lower edge, with an arrow.

    Args:
        comparison: What was measured.
        path: Of the picture; its ending names the format.
    """
    rows = comparison.rows
    kept = [row for row in rows if not comparison.is_destroyed(row)] or rows
    tops = [row.judgement.top1 for row in kept] + [comparison.float_top1]
    floor = min(tops) - ROOM
    with picture(path, (1, 1), (8.4, 5.4)) as (figure, axis):
        axis.set_xlim(0, 1.12 * max(row.median_ms for row in rows))
        axis.set_ylim(floor - 1.5, max(tops) + 3)
        axis.axhline(comparison.float_top1, color="#999999", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axis.text(0.1, comparison.float_top1, "float", color="#666666", fontsize=8, va="bottom")
        for row in sorted(rows, key=lambda row: -row.size):
            height = max(row.judgement.top1, floor)
            axis.scatter(
                row.median_ms, height, s=_area(row.size), color=_colour(row), alpha=0.8, edgecolor="white", zorder=3
            )
            if height > row.judgement.top1:
                axis.annotate("", (row.median_ms, floor - 1.4), (row.median_ms, floor), arrowprops={"arrowstyle": "->"})
        axis.set_xlabel("milliseconds for one image on one core, median (less is better)")
        axis.set_ylabel(f"top-1 on {comparison.images} images, percent")
        axis.set_title(
            f"{comparison.model}: every program by its own runtime; {comparison.cpu}", loc="left", fontsize=10
        )
        axis.grid(color="#eeeeee", zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
        _keys(axis, rows)
        figure.canvas.draw()  # fixes the transformations that labels are placed by
        figure.set_layout_engine("none")
        _labels(axis, comparison, floor)


def _area(size: float) -> float:
    return POINTS_PER_MB * size / 1e6


def _family(row: Row) -> str:
    return "ours" if row.ours else next(name for name in COLOURS if row.name.startswith(name))


def _colour(row: Row) -> str:
    return COLOURS[_family(row)]


def _keys(axis: Any, rows: Sequence[Row]) -> None:
    """One key for the colours, one for the areas."""
    used = [name for name in COLOURS if any(_family(row) == name for row in rows)]
    handles = [axis.scatter([], [], s=60, color=COLOURS[name], label=name) for name in used]
    handles += [
        axis.scatter([], [], s=_area(1e6 * size), facecolor="none", edgecolor="#666666", label=f"{size} MB")
        for size in KEY_SIZES
    ]
    axis.legend(handles=handles, loc="lower right", fontsize=8, frameon=False, labelspacing=1.3)


def _labels(axis: Any, comparison: Comparison, floor: float) -> None:
    """Writes each name where it meets no other name, no bubble and not the keys; a thin line joins what is far."""
    from matplotlib.patheffects import withStroke

    figure = axis.figure
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    spots = []
    for row in comparison.rows:
        x, y = axis.transData.transform((row.median_ms, max(row.judgement.top1, floor)))
        spots.append((row, x, y, scale * math.sqrt(_area(row.size) / math.pi)))
    taken: list[Box] = [(x - r, y - r, x + r, y + r) for _, x, y, r in spots]
    taken.append(_corners(axis.get_legend().get_window_extent(renderer)))
    whole = _corners(axis.get_window_extent(renderer))
    for row, x, y, radius in sorted(spots, key=lambda spot: (not spot[0].ours, spot[1])):
        text = row.name
        if comparison.is_destroyed(row):
            text += f": {row.judgement.top1:.1f} %"
        label = axis.text(0, 0, text, fontsize=8.5, weight="bold" if row.ours else "normal", zorder=4)
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])  # lines do not run through it
        box = label.get_window_extent(renderer)
        left, bottom, distance = place(box.width, box.height, (x, y, radius), taken, whole, 2 * scale)
        label.set_position(axis.transData.inverted().transform((left, bottom + 0.2 * box.height)))
        taken.append((left, bottom, left + box.width, bottom + box.height))
        if distance > 4 * scale:
            near = (min(max(x, left), left + box.width), min(max(y, bottom), bottom + box.height))
            ends = axis.transData.inverted().transform([(x, y), near])
            axis.plot(*zip(*ends, strict=True), color="#999999", linewidth=0.6, zorder=2)


def place(
    width: float, height: float, spot: tuple[float, float, float], taken: Sequence[Box], whole: Box, gap: float
) -> tuple[float, float, float]:
    """Finds room for a label, the nearest to its bubble.

    Args:
        width: Of the label; all lengths are in pixels.
        height: Likewise.
        spot: Centre and radius of the bubble.
        taken: Where nothing may be, the bubble itself included.
        whole: Where the label has to be.
        gap: Between a label and its bubble.

    Returns:
        Left and lower end of the label, and how far it is from where the bubble ends. Where there is no room, the place
        right of the bubble.
    """
    x, y, radius = spot
    for distance in [gap * (1 + step) for step in range(40)]:
        for turn in range(24):  # right, then up and down in turn, to the left
            angle = _angle(turn)
            reach = radius + distance
            centre = (x + math.cos(angle) * (reach + width / 2), y + math.sin(angle) * (reach + height / 2))
            box = (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)
            inside = box[0] >= whole[0] and box[1] >= whole[1] and box[2] <= whole[2] and box[3] <= whole[3]
            if inside and not any(_meet(box, other) for other in taken):
                return box[0], box[1], distance
    return x + radius + gap, y - height / 2, gap


def _angle(turn: int) -> float:
    """0, 15, -15, 30, -30 ... degrees, in radians."""
    return math.radians(15 * ((turn + 1) // 2) * (1 if turn % 2 else -1))


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _corners(extent: Any) -> Box:
    return extent.x0, extent.y0, extent.x1, extent.y1
