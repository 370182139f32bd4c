"""How long a program takes on this machine, and where."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from pathlib import Path

import torch

from .. import runtime
from ..errors import PackQViTError
from ..runtime.profile import OperatorTime


@dataclasses.dataclass(frozen=True)
class Timing:
    """Of a program.

    Attributes:
        latency: Milliseconds of one run, the median.
        runs: That were measured.
        cpu: Name of the CPU.
        tier: Of its kernels.
        operators: Times inside the delegate.
        problem: Why there are none; "" where there are.
    """

    latency: float
    runs: int
    cpu: str
    tier: str
    operators: tuple[OperatorTime, ...] = ()
    problem: str = ""

    @classmethod
    def of(cls, program: str | Path, *, runs: int = 20, profile: bool = True) -> Timing:
        """Runs a program on zeros.

        Args:
            program: The .pte.
            runs: How often.
            profile: Run it as often again, for the times of its operators.

        Raises:
            PackQViTError: It is no program that runs here.
        """
        latency = statistics.median(_run(runtime.load(program), runs))
        tier = runtime.selected_tier() or ""
        if not profile:
            return cls(latency, runs, cpu_name(), tier, problem="they were not measured")
        profiled = runtime.load(program, profile=True)
        _run(profiled, runs)
        try:
            return cls(latency, runs, cpu_name(), tier, tuple(profiled.operator_times()))
        except PackQViTError as error:  # several delegate calls, or none
            return cls(latency, runs, cpu_name(), tier, problem=str(error))


def _run(model: runtime.Model, runs: int) -> list[float]:
    """Milliseconds of each run."""
    inputs = [torch.zeros(takes.shape, dtype=takes.dtype) for takes in model.inputs()]
    times = []
    model.run(*inputs)
    for _ in range(runs):
        begin = time.perf_counter()
        model.run(*inputs)
        times.append(1000 * (time.perf_counter() - begin))
    return times


def cpu_name() -> str:
    """The CPU's own name for itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
