"""`packqvit benchmark`: how long a .pte takes on this machine."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .console import command, console, progress
from .options import check_program
from .session import start

THREADS_HELP = "Of ExecuTorch's pool; several times for several rows. Default: 1."
TIER_HELP = "Of the kernels; several times for several rows. Default: the CPU's best."


@command
def benchmark(
    program: Annotated[Path, typer.Argument(help="The .pte.")],
    threads: Annotated[list[int], typer.Option(help=THREADS_HELP, min=1)] = [1],  # noqa: B006
    tier: Annotated[list[str], typer.Option(help=TIER_HELP)] = [],  # noqa: B006
    iterations: Annotated[int, typer.Option(help="Measured runs of each row.", min=1)] = 50,
    warmup: Annotated[int, typer.Option(help="Runs before them.", min=0)] = 5,
    operators: Annotated[bool, typer.Option("--operators", help="Also where the time goes, by operator.")] = False,
) -> None:
    """Measure the latency of a .pte."""
    check_program(program)
    start("Starting ExecuTorch")
    import torch

    from .. import runtime

    torch.set_num_threads(1)
    table = Table("tier", "threads", "median ms", "least ms", title=escape(program.name), title_justify="left")
    for name in tier or [runtime.selected_tier() or ""]:
        for count in threads:
            model = runtime.load(program, threads=count, tier=name)
            inputs = [torch.zeros(takes.shape, dtype=takes.dtype) for takes in model.inputs()]
            for _ in range(warmup):
                model.run(*inputs)
            times = []
            for _ in progress(range(iterations), f"{name}, {count} thread(s)", iterations):
                begin = time.perf_counter()
                model.run(*inputs)
                times.append(1000 * (time.perf_counter() - begin))
            table.add_row(name, str(count), f"{statistics.median(times):.3f}", f"{min(times):.3f}")
    console.print(table)
    if operators:
        console.print(_operators(program, threads[0], tier[0] if tier else None, iterations))


def _operators(program: Path, threads: int, tier: str | None, iterations: int) -> Table:
    """The shares of the kinds of operators, the largest first."""
    import torch

    from .. import runtime
    from ..runtime.profile import by_kind

    model = runtime.load(program, threads=threads, tier=tier, profile=True)
    inputs = [torch.zeros(takes.shape, dtype=takes.dtype) for takes in model.inputs()]
    for _ in range(iterations):
        model.run(*inputs)
    kinds = by_kind(model.operator_times())
    total = sum(kind.total for kind in kinds) or 1.0
    table = Table("operator", "in one run", "ms", "share", title=f"with {threads} thread(s)", title_justify="left")
    for kind in kinds:
        table.add_row(kind.kind, str(kind.count), f"{kind.total:.3f}", f"{100 * kind.total / total:.1f} %")
    table.add_row("in all", "", f"{total:.3f}", "")
    return table
