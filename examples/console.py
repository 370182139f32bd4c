"""What the examples share on the terminal: progress bars, readable errors, quiet libraries."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch  # noqa: F401  sets up its loggers, which are quietened below
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

console = Console()
errors = Console(stderr=True)

# On import torchao warns about its CUDA kernels, and torch about torchao's use of it: nothing that a user can act on.
# So this module is to be imported before packqvit_delegate.
logging.getLogger("torchao").setLevel(logging.ERROR)
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)


def progress(items: Iterable[T], description: str, length: int | None) -> Iterable[T]:
    """Shows a progress bar while `items` are gone through; it fits `packqvit_delegate.export(progress=...)`."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors) as bar:
        yield from bar.track(items, total=length, description=description)


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a command show the package's errors as one message and exit with 1, and its warnings as they come."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        from packqvit_delegate.errors import PackQViTError

        handler = RichHandler(console=errors, show_time=False, show_path=False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
        try:
            return function(*args, **kwargs)
        except PackQViTError as error:
            errors.print("[bold red]error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error

    return wrapped


def facts(title: str | None = None) -> Table:
    """A table of names and values; long values are wrapped, not cut."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    return table


def size(count: int) -> str:
    """A file size in MiB, or in KiB where that says more."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
