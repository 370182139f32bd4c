"""The terminal of the benchmarks: tables on stdout, what is going on on stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Collection, Iterable

import typer
from rich.console import Console

from packqvit_delegate.models import ZOO
from packqvit_delegate.models.loading import HUGGING_FACE_PREFIX

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


def check_models(names: Iterable[str]) -> None:
    """Refuses models that are neither built in nor timm's; what `hf:` names is read later.

    Raises:
        typer.BadParameter: With what is built in.
    """
    others = [name for name in names if name not in ZOO and not name.startswith(HUGGING_FACE_PREFIX)]
    if others:
        try:
            from timm import is_model
        except (ImportError, RuntimeError):  # the latter of a torchvision that was built for another torch
            check_names(others, ZOO, "--model")
        check_names([name for name in others if not is_model(name)], [*ZOO, "a name of timm's"], "--model")
