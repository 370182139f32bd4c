"""How long loops tell where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], str, int | None], Iterable[Any]]
"""Wraps a loop: progress(iterable, description, length) gives the items of `iterable`."""


def silent(items: Iterable[Any], description: str, length: int | None) -> Iterable[Any]:
    """A Progress that shows nothing."""
    return items
