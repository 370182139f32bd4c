"""The application: all commands, and the entry point of the script `packqvit`."""

from __future__ import annotations

from typing import Annotated

import typer

from ..version import product_version
from .benchmark import benchmark
from .console import INTERRUPTED, errors
from .doctor import doctor
from .embeddings import embeddings
from .evaluate import evaluate
from .export import export
from .finetune import finetune
from .inspect import inspect
from .run import run
from .sensitivity import sensitivity

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
for one in (export, run, evaluate, benchmark, inspect, finetune, sensitivity, embeddings, doctor):
    app.command()(one)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"packqvit {product_version()}")
        raise typer.Exit


@app.callback()
def packqvit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    """Vision Transformers entirely in integers, for ExecuTorch: from a trained model to a .pte, and what it can do."""


def main() -> None:
    """Runs the command line."""
    try:
        app()
    except KeyboardInterrupt:  # between commands: while modules are imported
        errors.print("[bold red]interrupted[/]")
        raise SystemExit(INTERRUPTED) from None
