"""Peak resident memory of packqvit_runner on a program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from packqvit_delegate import runtime


def peak_memory(program: Path) -> float:
    """MiB, of a process that loads the program and runs it twice on one thread."""
    runner = str(runtime.executable_path("packqvit_runner"))
    command = [runner, "--model", str(program), "--iterations", "2", "--threads", "1"]
    return parse_peak_memory(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def parse_peak_memory(output: str) -> float:
    """The MiB that packqvit_runner reports.

    Raises:
        ValueError: It does not.
    """
    found = re.search(r"^memory: peak resident ([\d.]+) MiB$", output, re.MULTILINE)
    if found is None:
        raise ValueError("packqvit_runner did not report its peak memory; build it again")
    return float(found[1])
