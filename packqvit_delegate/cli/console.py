"""What commands share on the terminal: progress bars, readable errors, tables."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

console = Console()
errors = Console(stderr=True)

INTERRUPTED = 130
"""The exit code that shells give to what Ctrl-C ended."""

Log = Annotated[Path | None, typer.Option("--log", help="Write what the libraries below say into this file.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show it.")]

_resumable: list[str] = []


def progress(items: Iterable[T], description: str, length: int | None) -> Iterable[T]:
    """Shows a progress bar while `items` are gone through; it fits `packqvit_delegate.export(progress=...)`."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shows_all = errors.file is sys.stderr  # else what is written there goes to a log, and is not to come up here
    with Progress(*columns, console=errors, redirect_stdout=shows_all, redirect_stderr=shows_all) as bar:
        yield from bar.track(items, total=length, description=description)


def can_resume(how: str) -> None:
    """Notes what an interrupt leaves behind, in words for the user."""
    _resumable.append(how)


def command(function: Callable[P, R]) -> Callable[..., R]:
    """Makes a function a command: errors are one message and exit code 1, Ctrl-C is 130; `--log` and `-v` are added."""

    @functools.wraps(function)
    def wrapped(*args: Any, log: Path | None = None, verbose: bool = False, **kwargs: Any) -> R:
        from ..errors import PackQViTError
        from .session import session

        _resumable.clear()
        try:
            with session(log, verbose):
                return function(*args, **kwargs)
        except PackQViTError as error:
            errors.print("[bold red]error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            left = "; ".join(_resumable) or "no file was changed"
            errors.print("[bold red]interrupted:[/]", escape(left), highlight=False, soft_wrap=True)
            raise typer.Exit(INTERRUPTED) from error

    signature = inspect.signature(function, eval_str=True)  # get_type_hints of Python 3.10 would hide what is Annotated
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (("log", None, Log), ("verbose", False, Verbose))
    ]
    parameters = [*signature.parameters.values(), *added]
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapped


def one_command(function: Callable[..., Any]) -> typer.Typer:
    """An application of one command, for a script of its own."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    return app


def facts(title: str | None = None) -> Table:
    """A table of names and values; long values are wrapped, not cut."""
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    return table


def size(count: int) -> str:
    """A file size in MiB, or in KiB where that says more."""
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
