"""The terminal of the benchmarks: tables on stdout, what is going on on stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Collection, Iterable

import typer
from rich.console import Console

console = Console(width=None if sys.stdout.isatty() else 110)  # files get whole tables
progress = Console(stderr=True, style="dim", highlight=False)


def only_errors() -> None:
    """Keeps warnings of exports out of the output: models with random weights are what benchmarks are about."""
    for name in ("", "packqvit_delegate", "torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def check_names(names: Iterable[str], known: Collection[str], option: str) -> None:
    """Refuses names that are not known.

    Raises:
        typer.BadParameter: With what is known.
    """
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{name} is not one of {', '.join(known)}", param_hint=option)
