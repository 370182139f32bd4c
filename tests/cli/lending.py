"""Lends distributions of the environment of the tests to another one, as if pip had installed them there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def closure(lines: Iterable[str], extras: Iterable[str]) -> Iterator[metadata.Distribution]:
    """What the requirements of a distribution with these extras need, and what that needs.

    What is not installed here is left out, versions are not looked at: pip does that where it is lent.
    """
    pending = list(_of(lines, extras))
    seen = set()
    while pending:
        wanted = pending.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            found = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            continue
        yield found
        pending += _of(found.requires or (), wanted.extras)


def _of(lines: Iterable[str], extras: Iterable[str]) -> Iterator[Requirement]:
    """The requirements whose markers hold."""
    for wanted in map(Requirement, lines):
        if wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield wanted


def lend(distributions: Iterable[metadata.Distribution], site: Path) -> None:
    """Links what each has in its site-packages into another one."""
    for distribution in distributions:
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():  # two may share a folder, and one is met again with other extras
                link.symlink_to(Path(str(distribution.locate_file(top))))
