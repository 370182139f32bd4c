"""Measures whole models: ours at each preset, XNNPACK, and where installed ONNX Runtime and OpenVINO, in one run.

python -m benchmarks.models --model deit_tiny --model deit_small --rounds 60
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import typer

from packqvit_delegate import runtime
from packqvit_delegate.models import ZOO, file_stem

from .contestants import ALL_PRESETS, OURS, PRESETS, Contestant, Workshop
from .memory import peak_memory
from .operators import measure_operators
from .peers import PEERS, XNNPACK_FP32, make_peers
from .report import Results, latency_table, operator_table, plot, write_json
from .terminal import check_models, check_names, console, only_errors, progress
from .timing import measure

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEFAULT_MODELS = ["deit_tiny"]
MODEL_HELP = f"Any of {', '.join(ZOO)}, any name of timm's, or hf:<Hugging Face repository or folder>; can be repeated."
DEFAULT_THREADS = [1, 2]


@app.command()
def main(
    model: Annotated[list[str], typer.Option(help=MODEL_HELP)] = DEFAULT_MODELS,
    preset: Annotated[list[str], typer.Option(help="Ours; can be repeated.")] = ALL_PRESETS,
    threads: Annotated[list[int], typer.Option(help="Can be repeated.", min=1)] = DEFAULT_THREADS,
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.", min=1)] = 40,
    peers: Annotated[bool, typer.Option(help="Measure XNNPACK and the other engines, too.")] = True,
    operators: Annotated[bool, typer.Option(help="Show where our time goes, from ETDump.")] = True,
    fresh: Annotated[bool, typer.Option(help="Export the peers anew.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for programs and results.")] = Path("build/benchmarks"),
) -> None:
    """Measures models beside their peers."""
    only_errors()
    check_models(model)
    check_names(preset, PRESETS, "--preset")
    all_results = []
    for name in model:
        workshop = Workshop(name, output, fresh=fresh)
        ours = [workshop.ours(p) for p in preset]
        contestants: list[Contestant] = [*ours]
        if peers:
            contestants += make_peers(workshop, PEERS.values())
        results = Results(name, runtime.selected_tier())
        contestants = [c for c in contestants if c.engine != "executorch" or _runs(c, results)]
        for count in threads:
            progress.print(f"measuring {name} on {count} thread(s)")
            results.timings += measure(contestants, workshop.images[:1], count, rounds)
            console.print(latency_table(results, count))
        if operators:
            shown = [c for c in contestants if c.name in (*OURS, XNNPACK_FP32)]
            results.operators = {c.name: measure_operators(c.path, 1, 30) for c in shown}
            console.print(operator_table(results))
        write_json(results, output / f"{file_stem(name)}.json")
        all_results.append(results)
    plot(all_results, output / "models.png")
    progress.print(f"wrote {output}/models.png and a .json for each model")


def _runs(contestant: Contestant, results: Results) -> bool:
    """Takes a program's peak memory; what does not run is named and left out."""
    try:
        results.peak_memory[contestant.name] = peak_memory(contestant.path)
    except subprocess.CalledProcessError as error:
        reason = ([line for line in (error.stderr or "").splitlines() if line.strip()] or [str(error)])[-1]
        progress.print(f"left out: {contestant.name} does not run: {reason[:200]}")
        return False
    return True


if __name__ == "__main__":
    app()
