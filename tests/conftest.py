"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]

# The models of the tests are small, and pytest-xdist runs one process a core: more threads would wait for one another.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with ImageNet pictures and weights; the test is skipped where there is none."""
    path = Path(os.environ.get("PACKQVIT_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no ImageNet data at {path}: set PACKQVIT_DATA to the folder that has it")
    return path


QEMU = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "max,sme=off")  # qemu 7.2 computes wrongly with SME

Native = Callable[[str], list[str]]


def host_command(program: str) -> list[str]:
    """How to run an installed native program."""
    from packqvit_delegate import runtime

    return [str(runtime.executable_path(program))]


def aarch64_command(program: str) -> list[str]:
    """How to run the aarch64 build of a native program; the test is skipped where there is none."""
    path = (
        Path(os.environ.get("PACKQVIT_AARCH64_BUILD", ROOT / "build" / "aarch64")) / "backend_cpp" / "runner" / program
    )
    if not path.is_file() or shutil.which(QEMU[0]) is None:
        pytest.skip(f"no {path} or no {QEMU[0]}: run `make aarch64` first")
    return [*QEMU, str(path)]


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(host_command, id="host"),
        pytest.param(aarch64_command, id="aarch64", marks=pytest.mark.aarch64),
    ],
)
def native(request: pytest.FixtureRequest) -> Native:
    """Gives the command for a native program, on each kind of machine that it is built for."""
    return request.param
