"""Where the words of a command go: its own to the terminal, those of the libraries below it to a log."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.logging import RichHandler

from ..errors import PackQViTError
from ..files import check_writable
from .console import errors

OURS = "packqvit_delegate"
_LOG_ABOVE = "log above"
"""How messages refer to what ExecuTorch logged."""
_TAIL = 5


@contextlib.contextmanager
def session(log: Path | None, verbose: bool) -> Iterator[None]:
    """Keeps the terminal for this command's own words while it runs.

    Our warnings are shown; what ExecuTorch, torchao and others log, warn or print from C++ is written to the log, or
    shown too where that is asked for. So no line of theirs tears a progress bar.

    Args:
        log: A file for all of it; None: nobody reads it, but for the last lines, which a refusal of ExecuTorch repeats.
        verbose: Whether all is shown.

    Raises:
        PackQViTError: The log cannot be written; or as the command does, with ExecuTorch's reason.
    """
    check_writable(log)
    try:
        # Not replaced by a finished file: it is read while the command runs.
        file: IO[str] = open(log, "a", encoding="utf-8") if log else tempfile.TemporaryFile("w+", encoding="utf-8")
    except OSError as error:
        raise PackQViTError(f"cannot write the log {log}: {error.strerror}") from error
    with file, _handlers(file, log is not None, verbose), _elsewhere(file, verbose):
        try:
            yield
        except PackQViTError as error:
            if _LOG_ABOVE in str(error) and not verbose:
                _show_tail(file, log)
            raise


@contextlib.contextmanager
def _handlers(file: IO[str], to_file: bool, verbose: bool) -> Iterator[None]:
    root = logging.getLogger()
    terminal = RichHandler(console=errors, show_time=False, show_path=False)
    if not verbose:
        terminal.addFilter(lambda record: record.name.partition(".")[0] == OURS and record.levelno >= logging.WARNING)
    handlers: list[logging.Handler] = [terminal]
    if to_file:
        written = logging.StreamHandler(file)
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(written)
    before = root.level
    if to_file or verbose:
        root.setLevel(min(before, logging.INFO))
    for handler in handlers:
        root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for handler in handlers:
            root.removeHandler(handler)
        root.setLevel(before)


@contextlib.contextmanager
def _elsewhere(file: IO[str], verbose: bool) -> Iterator[None]:
    """Leads the standard error, of C++ and of Python, into a file; our console alone stays on the terminal."""
    if verbose:
        yield
        return
    python, kept = sys.stderr, os.dup(2)
    python.flush()
    is_ours = _descriptor(python) == 2
    terminal = os.fdopen(os.dup(2), "w", encoding=python.encoding, errors=python.errors) if is_ours else python
    os.dup2(file.fileno(), 2)
    sys.stderr, errors.file = file, terminal
    try:
        yield
    finally:
        file.flush()
        sys.stderr, errors.file = python, None  # type: ignore[assignment]  # rich: sys.stderr, whatever it is then
        if is_ours:
            terminal.close()
        os.dup2(kept, 2)
        os.close(kept)


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):  # of a test
        return None


def _show_tail(file: IO[str], log: Path | None) -> None:
    if log is not None:
        errors.print(f"the log: {log}", markup=False, highlight=False)
        return
    file.flush()
    size = os.fstat(file.fileno()).st_size
    text = os.pread(file.fileno(), min(size, 1 << 14), max(0, size - (1 << 14))).decode("utf-8", errors="replace")
    for line in text.splitlines()[-_TAIL:]:
        errors.print(line, markup=False, highlight=False, style="dim")


def start(what: str) -> None:
    """Says what begins, and imports PyTorch, whose loggers from then on write where all others do."""
    errors.print(what, markup=False, highlight=False)
    import torch  # noqa: F401

    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
