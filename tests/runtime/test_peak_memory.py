"""The runner takes little memory beside the program's file, and loads no more of ExecuTorch than the program needs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from executorch.exir import to_edge
from executorch.runtime import Runtime
from torch import nn

from benchmarks.memory import peak_memory
from models import images, randomize
from packqvit_delegate import CalibrationMethod, export, runtime
from packqvit_delegate.models import VisionTransformer, ViTConfig
from programs import micro_program

CHEAP = CalibrationMethod(
    rounding="nearest", bias_correction=False, compensation=False, clipping=False, token_importance=False
)
KERNELS = "libexecutorch_kernels_optimized"


def loaded_libraries(program: Path) -> str:
    """What the dynamic linker says while the runner runs a program."""
    command = [str(runtime.executable_path("packqvit_runner")), "--model", str(program), "--threads", "1"]
    environment = {**os.environ, "LD_DEBUG": "libs"}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stderr


@pytest.mark.slow
def test_peak_of_a_program_of_4_bits(tmp_path: Path) -> None:
    """Four blocks of ViT-Base: packed weights, activations, the input and the libraries, nothing twice."""
    model = randomize(VisionTransformer(ViTConfig(dim=768, heads=12, depth=4, num_classes=10)))
    x = images(2, 224)
    program = export(model, (x[:1],), x, bits=4, activation_bits=8, method=CHEAP)
    program.save(tmp_path / "model.pte")
    mebibytes = (tmp_path / "model.pte").stat().st_size / 2**20
    assert peak_memory(tmp_path / "model.pte") <= 1.5 * mebibytes, f"of a file of {mebibytes:.2f} MiB"


def test_a_delegate_call_needs_no_kernels(tmp_path: Path) -> None:
    micro_program("W4A8").save(tmp_path / "model.pte")
    libraries = loaded_libraries(tmp_path / "model.pte")
    assert "libpackqvit_backend" in libraries and KERNELS not in libraries


def test_operators_outside_get_kernels(tmp_path: Path) -> None:
    exported = torch.export.export(nn.Linear(4, 3).eval(), (torch.zeros(1, 4),))
    (tmp_path / "model.pte").write_bytes(to_edge(exported).to_executorch().buffer)
    assert KERNELS in loaded_libraries(tmp_path / "model.pte")


def test_the_input_is_read_where_it_lies() -> None:
    program = Runtime.get().load_program(micro_program("W4A8").buffer)
    assert not program.load_method("forward").metadata.input_tensor_meta(0).is_memory_planned()
