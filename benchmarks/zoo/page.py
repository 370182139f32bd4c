"""The tables of the models that were tried, in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from .entry import Entry
from .record import Record

FEW_REASONS = 2
"""So many are told of each model."""
LONGEST = 220
"""Letters of one of them."""


def page(families: dict[str, list[Entry]], records: dict[str, list[Record]]) -> str:
    """All tables, with a count in front and the reasons behind each.

    Args:
        families: By heading.
        records: By the model's name, one for each preset that it was tried at; models without are left out.
    """
    tried = [records[entry.name] for entries in families.values() for entry in entries if entry.name in records]
    is_timed = any(first.ms is not None for first, *_ in tried)
    parts = [_counts(tried)]
    for heading, entries in families.items():
        rows = [records[entry.name] for entry in entries if entry.name in records]
        if rows:
            parts += [f"## {heading}", _table(rows, is_timed), _reasons(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(tried: Sequence[list[Record]]) -> str:
    first = [records[0] for records in tried]
    whole = sum(all(record.is_whole for record in records) for records in tried)
    in_part = sum(not record.error and not record.is_whole for record in first)
    refused = sum(record.is_refused for record in first)
    return (
        f"{len(tried)} models: {whole} in one delegate call with nothing outside, {in_part} in part in float, "
        f"{refused} refused."
    )


def _table(rows: Sequence[list[Record]], is_timed: bool) -> str:
    presets = list(dict.fromkeys(record.preset for records in rows for record in records))
    heads = ["model", "in integers"]
    heads += [f"{preset}, {unit}" for preset in presets for unit in ("dB", "MB")]
    heads += ["ms", "XNNPACK int8 dynamic / ours"] * is_timed
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for records in rows:
        cells = [records[0].name, _kind(records[0])]
        by_preset = {record.preset: record for record in records if not record.error}
        for preset in presets:
            found = by_preset.get(preset)
            cells += ["", ""] if found is None else [_decibels(found), f"{found.size / 1e6:.1f}"]
        if is_timed:
            cells += _times(records[0])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _times(record: Record) -> list[str]:
    """Milliseconds, and how many times as long the peer takes."""
    if record.ms is None:
        return ["", ""]
    return [f"{record.ms:.1f}", "" if record.peer_ms is None else f"{record.peer_ms / record.ms:.2f}"]


def _kind(record: Record) -> str:
    if record.error:
        return "refused" if record.is_refused else "fails"
    if record.is_whole:
        return "whole"
    calls = f"{record.delegates} call{'s' * (record.delegates != 1)}"
    return f"{calls}, {record.floats} of {record.floats + record.operators} operators in float"


def _decibels(record: Record) -> str:
    values = " / ".join(f"{value:.1f}" for value in record.decibels)
    return values if record.is_exact or not record.is_whole else f"{values}, **bits differ**"


def _reasons(rows: Iterable[list[Record]]) -> str:
    """What stays in float and why, or why a model is refused: a list."""
    lines = []
    for first, *_ in rows:
        told = first.error.splitlines()[:1] if first.error else first.reasons[:FEW_REASONS]
        more = len(first.reasons) - FEW_REASONS
        if not first.error and more > 0:
            told.append(f"and {more} more reason{'s' * (more != 1)}")
        if told:
            lines.append(f"- {first.name}: " + "; ".join(_plain(_short(text)) for text in told))
    return "\n".join(lines)


def _short(reason: str) -> str:
    """What is particular to a model, and no more than a few lines of it; `packqvit export` tells all."""
    _, _, particular = reason.rpartition("so there is no Vision Transformer to run in integers: ")
    return textwrap.shorten(particular, LONGEST, placeholder=" ...")


def _plain(text: str) -> str:
    """A reason as Markdown that shows every character of it."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in text)
