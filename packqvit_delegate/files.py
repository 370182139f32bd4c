"""Files that are written after long work."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import PackQViTError


def check_writable(*paths: str | Path | None) -> None:
    """Says before the work whether its results can be written.

    Args:
        paths: Of files, those that exist included; None is skipped.

    Raises:
        PackQViTError: A folder does not exist or may not be written to, or the path is itself a folder.
    """
    for path in (Path(path) for path in paths if path is not None):
        if not path.parent.is_dir():
            raise PackQViTError(f"there is no folder {path.parent} for {path.name}")
        if path.is_dir():
            raise PackQViTError(f"{path} is a folder: give the name of a file")
        place = path if path.exists() else path.parent
        if not os.access(place, os.W_OK):
            raise PackQViTError(f"{path} may not be written: the permissions of {place} do not allow it")
