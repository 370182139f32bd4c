"""A sensitivity report as tables for the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from .report import OperatorLoss, SensitivityReport
from .roles import ROLES


def block_table(report: SensitivityReport) -> Table:
    """One row a block, one column a kind of operator: signal-to-noise ratios in decibels."""
    inner = [loss for loss in report.operators if 0 <= loss.block < report.blocks]
    roles = [role for role in ROLES if any(loss.role == role for loss in inner)]
    table = Table("block", title="signal-to-noise in dB against float: everything before included / the operator alone")
    for role in roles:
        table.add_column(role, justify="right")
    for block in range(report.blocks):
        by_role = {loss.role: loss for loss in inner if loss.block == block}
        table.add_row(str(block), *(_cell(by_role.get(role)) for role in roles))
    return table


def worst_table(report: SensitivityReport, count: int = 10) -> Table:
    """The operators that lose most by themselves."""
    table = Table(
        "operator", "block", "layer", "alone, dB", "with all before, dB", title="largest losses of single operators"
    )
    for loss in sorted(report.operators, key=lambda loss: loss.own_snr)[:count]:
        table.add_row(loss.role, _block(loss, report), escape(loss.layer), f"{loss.own_snr:.1f}", f"{loss.snr:.1f}")
    return table


def _cell(loss: OperatorLoss | None) -> str:
    return "" if loss is None else f"{loss.snr:.0f} / {loss.own_snr:.0f}"


def _block(loss: OperatorLoss, report: SensitivityReport) -> str:
    return str(loss.block) if 0 <= loss.block < report.blocks else ""
