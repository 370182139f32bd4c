"""A sensitivity report as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..arguments import checked
from ..pictures import picture
from .report import SensitivityReport
from .roles import ROLES
from .table import closeness


@checked
def plot(report: SensitivityReport, path: str | Path, title: str = "") -> None:
    """Draws two maps, blocks from left to right and kinds of operators from top to bottom.

    The left map shows how far each value is from the float model's, the right one what each operator loses by itself.

    Args:
        report: What to draw.
        path: Of the picture; its ending names the format (png, svg, pdf).
        title: Above both.

    Raises:
        PackQViTError: matplotlib is not installed, it does not know the format, or the file cannot be written.
    """
    inner = [loss for loss in report.operators if 0 <= loss.block < report.blocks]
    roles = [role for role in ROLES if any(loss.role == role for loss in inner)]
    size = (max(10.0, 0.8 * report.blocks + 4), 0.42 * len(roles) + 1.8)
    with picture(path, (1, 2), size, sharey=True) as (figure, axes):
        for axis, figures, label in (
            (axes[0], {(loss.role, loss.block): loss.snr for loss in inner}, "everything before included"),
            (axes[1], {(loss.role, loss.block): loss.own_snr for loss in inner}, "the operator alone"),
        ):
            image = _draw(axis, figures, roles, report.blocks)
            axis.set_title(label, fontsize=10)
        figure.colorbar(image, ax=axes, label="signal-to-noise, dB")
        figure.suptitle(f"{title}   {closeness(report)}".strip(), fontsize=11)


def _draw(axis: Any, figures: dict[tuple[str, int], float], roles: list[str], blocks: int) -> Any:
    rows = [[figures.get((role, block), float("nan")) for block in range(blocks)] for role in roles]
    image = axis.imshow(rows, cmap="RdYlGn", vmin=0, vmax=40, aspect="auto")
    axis.set_xticks(range(blocks))
    axis.set_yticks(range(len(roles)), roles)
    axis.set_xlabel("block")
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value == value:
                axis.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize=8)
    return image
