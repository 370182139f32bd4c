"""Where the time of one inference goes, operator by operator, from ETDump."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from packqvit_delegate import runtime

from .contestants import operators_path

if TYPE_CHECKING:
    from executorch.devtools.inspector import Event

OUTSIDE_PREFIX = "native_call_"
Shares = dict[str, float]
"""Milliseconds of one inference by kind of operator, the longest first."""


def measure_operators(program: Path, threads: int, iterations: int) -> Shares:
    """Runs a program with packqvit_runner and adds up the medians of each operator's runs.

    Operators of other backends have the backend's name in front, and those in no delegate `outside`.

    Args:
        program: Ours, with the names of its operators beside it, or one of XNNPACK alone.
        threads: Of the runner.
        iterations: Measured runs.
    """
    dump = program.with_suffix(".etdump")
    command = [str(runtime.executable_path("packqvit_runner")), "--model", str(program), "--etdump", str(dump)]
    command += ["--threads", str(threads), "--warmup", "5", "--iterations", str(iterations)]
    subprocess.run(command, check=True, capture_output=True)
    path = operators_path(program)
    return add_up(_medians(dump), json.loads(path.read_text()) if path.is_file() else {})


def _medians(dump: Path) -> dict[str, float]:
    from executorch.devtools import Inspector

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = Inspector(etdump_path=str(dump)).event_blocks
    return {
        event_key(event): float(event.perf_data.p50)
        for block in blocks
        for event in block.events
        if event.is_delegated_op or event.name.startswith(OUTSIDE_PREFIX)
    }


def event_key(event: Event) -> str:
    """`<instruction>/<debug id>` of a delegate's event, `<instruction>/<name>` of one outside of all delegates."""
    debug_id = event.delegate_debug_identifier if event.is_delegated_op else event.name
    return f"{event._instruction_id}/{debug_id}"


def add_up(milliseconds: dict[str, float], names: dict[str, str]) -> Shares:
    """Adds up by operator.

    Args:
        milliseconds: By key (`event_key`).
        names: Of our operators, by key.
    """
    sums: Shares = {}
    for key, time in milliseconds.items():
        name = names.get(key) or _foreign_name(key.partition("/")[2])
        sums[name] = sums.get(name, 0.0) + time
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _foreign_name(event: str) -> str:
    """`Convolution (NHWC, F32) IGEMM #12` of XNNPACK; `native_call_add.out` of ExecuTorch's own kernels."""
    if event.startswith(OUTSIDE_PREFIX):
        return f"outside: {event.removeprefix(OUTSIDE_PREFIX)}"
    return f"XNNPACK: {event.partition(' #')[0]}"
