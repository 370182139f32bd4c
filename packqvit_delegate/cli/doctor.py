"""`packqvit doctor`: what is installed, whether it fits together, and what is missing."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata

import typer
from rich.markup import escape
from rich.table import Table

from ..version import product_version
from .console import command, console, facts
from .session import start

NEEDED = ("torch", "executorch", "torchao", "numpy", "flatbuffers", "jinja2", "pillow", "safetensors")
OPTIONAL = {
    "huggingface-hub": "weights from the hub: pip install packqvit-delegate[hub]",
    "timm": "timm's models: pip install packqvit-delegate[timm]",
    "transformers": "Hugging Face's models: pip install packqvit-delegate[hub]",
    "matplotlib": "plots: pip install packqvit-delegate[plots]",
}


@command
def doctor() -> None:
    """Check this installation: versions, kernel tiers, whether ExecuTorch fits, what is missing."""
    start("Looking at this installation")
    problems: list[str] = []
    table = facts()
    table.add_row("packqvit-delegate", product_version())
    table.add_row("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    wanted = _wanted()
    for name in NEEDED:
        found = _version(name)
        asked = wanted.get(name, "")
        table.add_row(name, f"{found or 'missing'}{f' (needed: {asked})' if asked else ''}")
        if found is None:
            problems.append(f"{name} is not installed: pip install '{name}{asked}'")
        elif not _fits(found, asked):
            problems.append(f"{name} is {found}, but {asked} is needed: pip install '{name}{asked}'")
    for name, purpose in OPTIONAL.items():
        table.add_row(name, _version(name) or escape(f"not installed; for {purpose}"))
    problems += _native(table)
    table.add_row("CPUs", str(os.cpu_count()))
    console.print(table)
    for problem in problems:
        console.print("[bold red]problem:[/]", escape(problem), highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)
    console.print("All that is needed is here.")


def _native(table: Table) -> list[str]:
    """The native library: whether it loads beside this ExecuTorch, and which kernels this CPU gets."""
    try:
        from .. import runtime

        tiers, chosen = runtime.supported_tiers(), runtime.selected_tier()
    except Exception as error:  # a broken installation raises anything, and this command is there to say what
        first = (str(error).strip() or type(error).__name__).split("\n", 1)[0]
        table.add_row("native library", "does not load")
        return [f"the native library does not load: {first}"]
    table.add_row("native library", str(runtime.library_path()))
    table.add_row("kernel tiers", ", ".join(tiers))
    if chosen is None:
        named = os.environ.get("PACKQVIT_TIER")
        return [f"PACKQVIT_TIER={named} names no tier of this CPU: unset it, or name one of {', '.join(tiers)}"]
    table.add_row("tier in use", chosen)
    return []


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _wanted() -> dict[str, str]:
    """The versions that this package asks for, by name."""
    try:
        lines = metadata.requires("packqvit-delegate") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)\s*([^;]*)$", line) for line in lines)
    return {match[1].lower(): match[2].strip() for match in found if match}


def _fits(version: str, asked: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return not asked or SpecifierSet(asked).contains(version, prereleases=True)
