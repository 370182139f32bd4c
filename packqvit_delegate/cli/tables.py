"""Rows that tell how good a program is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ..evaluation import Answers, divergence, top1


def describe(table: Table, integer: Answers, reference: Answers | None, labels: Sequence[int]) -> None:
    """Adds the rows that tell how good a program is, and how close to the float model if that was run as well."""
    if reference is None:
        table.add_row("top-1 integer", top1(integer, labels))
        return
    table.add_row("top-1 float", top1(reference, labels))
    table.add_row("top-1 integer", top1(integer, labels))
    table.add_row("same answer", top1(integer, reference.classes.tolist()))
    distance = divergence(integer, reference)
    if distance is not None:
        table.add_row("divergence", f"{distance:.4f} nats")
