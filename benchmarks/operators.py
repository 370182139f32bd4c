"""Where the time of one inference goes, operator by operator, from ETDump."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
from pathlib import Path

from packqvit_delegate import runtime

from .contestants import operators_path

Shares = dict[str, float]
"""Milliseconds of one inference by kind of operator, the longest first."""


def measure_operators(program: Path, threads: int, iterations: int) -> Shares:
    """Runs one of our programs with packqvit_runner and adds up the medians of each operator's runs."""
    dump = program.with_suffix(".etdump")
    command = [str(runtime.executable_path("packqvit_runner")), "--model", str(program), "--etdump", str(dump)]
    command += ["--threads", str(threads), "--warmup", "5", "--iterations", str(iterations)]
    subprocess.run(command, check=True, capture_output=True)
    return add_up(_medians(dump), json.loads(operators_path(program).read_text()))


def _medians(dump: Path) -> dict[str, float]:
    from executorch.devtools import Inspector

    with contextlib.redirect_stdout(io.StringIO()):
        blocks = Inspector(etdump_path=str(dump)).event_blocks
    return {
        str(event.delegate_debug_identifier): float(event.perf_data.p50)
        for block in blocks
        for event in block.events
        if event.is_delegated_op
    }


def add_up(milliseconds: dict[str, float], names: dict[str, str]) -> Shares:
    """Adds up by operator.

    Args:
        milliseconds: By debug id.
        names: Of the operators, by debug id.
    """
    sums: Shares = {}
    for debug_id, time in milliseconds.items():
        sums[names[debug_id]] = sums.get(names[debug_id], 0.0) + time
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
