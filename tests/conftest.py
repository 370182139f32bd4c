"""Fixtures that several folders of tests use."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# The models of the tests are small, and pytest-xdist runs one process a core: more threads would wait for one another,
# here and in the processes that tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Modules that run the same programs (programs.py, conformance/suite.py) belong into one process, which makes them once.
TOGETHER = {
    "tests/conformance/test_conformance.py": "native",
    "tests/native/test_bits.py": "native",
    "tests/native/test_bytes.py": "native",
    "tests/examples/test_digits.py": "digits",
    "tests/qat/test_digits.py": "digits",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadfile` with the files of TOGETHER as one."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return TOGETHER.get(file, file)

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """What is imported stays: the garbage collector need not look at a million objects again and again.

    Nor at every 700 new ones, of which an export makes millions: a twentieth of its time, for 40 MiB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between modules that share nothing, large programs are dropped, and memory goes back to the system."""
    if nextitem is None:
        return
    module, following = (each.path.relative_to(ROOT).as_posix() for each in (item, nextitem))
    if TOGETHER.get(module, module) == TOGETHER.get(following, following):
        return
    if "programs" in sys.modules:
        sys.modules["programs"].forget_large_programs()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with ImageNet pictures and weights; the test is skipped where there is none."""
    path = Path(os.environ.get("PACKQVIT_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no ImageNet data at {path}: set PACKQVIT_DATA to the folder that has it")
    return path


QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu")
QEMU_CPUS = ("cortex-a72", "cortex-a76", "max,sme=off")  # ARMv8.0; dotprod; i8mm (qemu 7.2 computes wrongly with SME)
HOST_TIERS = ("", "avx2", "reference")  # "": the CPU's best

Native = Callable[[str], list[str]]


def host_command(tier: str, program: str) -> list[str]:
    """How to run an installed native program with a kernel tier; skipped where the CPU does not have it."""
    from packqvit_delegate import runtime

    if tier and tier not in runtime.supported_tiers():
        pytest.skip(f"this CPU has no {tier}")
    environment = ["env", f"PACKQVIT_TIER={tier}"] if tier else []
    return [*environment, str(runtime.executable_path(program))]


def aarch64_command(cpu: str, program: str) -> list[str]:
    """How to run the aarch64 build of a native program; the test is skipped where there is none."""
    path = (
        Path(os.environ.get("PACKQVIT_AARCH64_BUILD", ROOT / "build" / "aarch64")) / "backend_cpp" / "runner" / program
    )
    if not path.is_file() or shutil.which(QEMU[0]) is None:
        pytest.skip(f"no {path} or no {QEMU[0]}: run `make aarch64` first")
    return [*QEMU, cpu, str(path)]


@pytest.fixture(
    scope="session",
    params=[
        *(pytest.param(partial(host_command, tier), id=f"host-{tier or 'best'}") for tier in HOST_TIERS),
        *(
            pytest.param(partial(aarch64_command, cpu), id=f"aarch64-{cpu}", marks=pytest.mark.aarch64)
            for cpu in QEMU_CPUS
        ),
    ],
)
def native(request: pytest.FixtureRequest) -> Native:
    """Gives the command for a native program, on each kind of machine that it is built for."""
    return request.param
