"""A sensitivity report as tables for the terminal."""

from __future__ import annotations

from typing import Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from ..arguments import checked
from .report import OperatorLoss, SensitivityReport
from .roles import ROLES

_TITLES = {
    "snr": "signal-to-noise against float by block, dB: everything before included",
    "own_snr": "the same for each operator alone",
}
_SHORT = {
    "probabilities": "softmax",
    "attention": "attn",
    "stream 1": "add 1",
    "activation": "act",
    "stream 2": "add 2",
}


@checked
def block_table(report: SensitivityReport, figure: Literal["snr", "own_snr"] = "snr") -> Table:
    """One row a block, one column a kind of operator; 80 columns wide at most.

    Args:
        report: What to show.
        figure: Which of OperatorLoss's.
    """
    inner = [loss for loss in report.operators if 0 <= loss.block < report.blocks]
    roles = [role for role in ROLES if any(loss.role == role for loss in inner)]
    table = Table("", title=_TITLES[figure], box=box.SIMPLE, padding=(0, 0, 0, 1))
    for role in roles:
        table.add_column(_SHORT.get(role, role), justify="right", no_wrap=True)
    for block in range(report.blocks):
        by_role = {loss.role: f"{getattr(loss, figure):.1f}" for loss in inner if loss.block == block}
        table.add_row(str(block), *(by_role.get(role, "") for role in roles))
    return table


@checked
def worst_table(report: SensitivityReport, count: int = 10) -> Table:
    """The operators that lose most by themselves."""
    columns = ("operator", "block", "layer", "alone, dB", "with all before, dB")
    table = Table(*columns, title="largest losses of single operators", box=box.SIMPLE)
    for loss in sorted(report.operators, key=lambda loss: loss.own_snr)[:count]:
        table.add_row(loss.role, _block(loss, report), escape(loss.layer), f"{loss.own_snr:.1f}", f"{loss.snr:.1f}")
    return table


@checked
def closeness(report: SensitivityReport) -> str:
    """How close the answers are to the float model's, in words: those of classes, or of embeddings."""
    if report.agreement is not None:
        return f"same answer as float {100 * report.agreement:.1f} %, {report.divergence:.3f} nats"
    return f"cosine to float {report.cosine:.4f}, {report.operators[-1].snr:.1f} dB"


def _block(loss: OperatorLoss, report: SensitivityReport) -> str:
    return str(loss.block) if 0 <= loss.block < report.blocks else ""
