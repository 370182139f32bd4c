"""Counts the instructions of one inference on AArch64, ours and XNNPACK's, under qemu.

python -m benchmarks.instructions --runner build/aarch64-clang/backend_cpp/runner/packqvit_runner \
    --plugin build/libinstruction_counter.so

The programs run on emulated CPUs, each of which makes both delegates choose the kernels of that CPU. qemu's own speed
says nothing about a CPU's and is not measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from packqvit_delegate.models import ZOO

from .contestants import ALL_PRESETS, PRESETS, Contestant, Workshop
from .peers import XNNPACK, XNNPACK_DYNAMIC, make_peers
from .terminal import check_names, console, only_errors, progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

SYSROOT = "/usr/aarch64-linux-gnu"
CPUS = ["cortex-a72", "cortex-a76", "max,sme=off"]
"""Armv8.0; with the dot product; with int8 matrix multiply. qemu 7.2 computes wrongly with SME."""


@dataclass(frozen=True)
class Counts:
    """Instructions of one inference."""

    instructions: int
    classes: dict[str, int]


def count(command: list[str], cpu: str, plugin: Path) -> Counts:
    """Runs an AArch64 program under qemu and counts between its markers.

    Raises:
        RuntimeError: The program fails, or executes no markers.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "counts.json")
        emulator = ["qemu-aarch64", "-L", SYSROOT, "-cpu", cpu, "-d", "plugin"]
        emulator += ["-plugin", f"{plugin.resolve()},out={result}"]
        run = subprocess.run([*emulator, *command], capture_output=True, text=True, errors="replace", check=False)
        if run.returncode != 0 or not result.is_file():
            raise RuntimeError(f"{' '.join(command)} failed on {cpu}:\n{run.stderr[-2000:]}")
        counts = json.loads(result.read_text())
    regions = counts["regions"]
    if regions == 0:
        raise RuntimeError(f"{command[0]} executed no markers: is it packqvit_runner, or linked with its region.h?")
    return Counts(
        counts["instructions"] // regions, {name: value // regions for name, value in counts["classes"].items()}
    )


def count_inference(runner: Path, program: Path, cpu: str, plugin: Path) -> Counts:
    """Counts the second inference of a program on one thread; in the first one, delegates set themselves up."""
    command = [str(runner), "--model", str(program), "--threads", "1", "--warmup", "1", "--iterations", "1"]
    return count(command, cpu, plugin)


def summary(results: dict[str, dict[str, Counts]], reference: str) -> Table:
    """Millions of instructions by CPU, and of each program over the reference on the same CPU."""
    table = Table(title=f"millions of instructions per inference, and ratio to {reference}")
    table.add_column("", no_wrap=True)
    for cpu in results:
        table.add_column(cpu, justify="right", no_wrap=True)
        table.add_column("ratio", justify="right")
    for name in dict.fromkeys(name for counts in results.values() for name in counts):
        row = []
        for counts in results.values():
            base = counts.get(reference)
            row.append(f"{counts[name].instructions / 1e6:.1f}")
            row.append("" if base is None else f"{counts[name].instructions / base.instructions:.3f}")
        table.add_row(name, *row)
    return table


def class_table(cpu: str, counts: dict[str, Counts]) -> Table:
    """Millions of instructions by class on one CPU, the most frequent first."""
    table = Table(title=f"{cpu}: millions of instructions by class")
    table.add_column("class", no_wrap=True)
    for name in counts:
        table.add_column(name, justify="right")
    most = {kind: max(c.classes.get(kind, 0) for c in counts.values()) for c in counts.values() for kind in c.classes}
    for kind in sorted(most, key=lambda kind: -most[kind]):
        table.add_row(kind, *(f"{c.classes.get(kind, 0) / 1e6:.2f}" for c in counts.values()))
    return table


@app.command()
def main(
    runner: Annotated[Path, typer.Option(help="packqvit_runner for aarch64.", exists=True)],
    plugin: Annotated[Path, typer.Option(help="libinstruction_counter.so.", exists=True)],
    model: Annotated[str, typer.Option(help=f"One of {', '.join(ZOO)}.")] = "deit_tiny",
    preset: Annotated[list[str], typer.Option(help="Ours; can be repeated.")] = ALL_PRESETS,
    cpu: Annotated[list[str], typer.Option(help="Of qemu; can be repeated.")] = CPUS,
    fresh: Annotated[bool, typer.Option(help="Export the peers anew.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for programs and results.")] = Path("build/benchmarks"),
) -> None:
    """Counts instructions per inference on AArch64."""
    only_errors()
    check_names([model], ZOO, "--model")
    check_names(preset, PRESETS, "--preset")
    if shutil.which("qemu-aarch64") is None:
        raise typer.BadParameter("qemu-aarch64 is missing: install qemu-user")
    if not os.path.isdir(SYSROOT):
        raise typer.BadParameter(f"{SYSROOT} is missing: install g++-aarch64-linux-gnu")
    workshop = Workshop(model, output, fresh=fresh)
    contestants: list[Contestant] = [*(workshop.ours(p) for p in preset), *make_peers(workshop, XNNPACK)]
    results: dict[str, dict[str, Counts]] = {}
    for one in cpu:
        results[one] = {}
        for contestant in contestants:
            progress.print(f"counting {contestant.name} on {one}")
            results[one][contestant.name] = count_inference(runner, contestant.path, one, plugin)
        console.print(class_table(one, results[one]))
    console.print(summary(results, XNNPACK_DYNAMIC))
    document = {
        one: {name: {"instructions": c.instructions, "classes": c.classes} for name, c in counts.items()}
        for one, counts in results.items()
    }
    path = output / f"{model}_instructions.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    progress.print(f"wrote {path}")


if __name__ == "__main__":
    app()
