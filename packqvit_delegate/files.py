"""Files that are written after long work."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
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
        places = [path] if path.exists() else []
        if not places or path.is_file():  # a new file is written beside, and takes its place
            places.append(path.parent)
        for place in places:
            if not os.access(place, os.W_OK):
                raise PackQViTError(f"{path} may not be written: the permissions of {place} do not allow it")


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Writes a file so that it is either the finished new one or, after any error or interrupt, what it was before.

    Args:
        path: Of the file; what is no regular file, such as a pipe or a device, is written directly.

    Yields:
        The path to write to, in the same folder.

    Raises:
        PackQViTError: As `check_writable`; or the disk is full, or something else keeps the file from being written.
    """
    check_writable(path)
    final = Path(os.path.realpath(path))  # a link stays one
    direct = final.exists() and not final.is_file()
    partial = final if direct else final.with_name(f".{os.getpid()}.partial.{final.name}")
    try:
        yield partial
        if not direct:
            if final.exists():
                shutil.copymode(final, partial)
            os.replace(partial, final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PackQViTError(f"cannot write {path}: {reason}; it is as it was before") from error
    finally:
        if not direct:
            partial.unlink(missing_ok=True)
