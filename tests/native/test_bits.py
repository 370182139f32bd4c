"""The native programs, on this machine and on aarch64 under qemu, give the bits of the eager integer graph."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conformance.cases import FAMILIES
from conformance.suite import lowered_family, write_case
from models import images
from packqvit_delegate import Program
from programs import PRESETS, eager_logits, micro_program, pictures, vit_tiny_logits, vit_tiny_program


def run(command: list[str], *arguments: object) -> str:
    result = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def runner_logits(
    native: Callable[[str], list[str]], program: Program, batch: torch.Tensor, folder: Path
) -> np.ndarray:
    program.save(folder / "model.pte")
    (folder / "images.bin").write_bytes(batch.numpy().tobytes())
    files = ("--model", folder / "model.pte", "--batch-file", folder / "images.bin", "--output", folder / "logits.bin")
    run(native("packqvit_runner"), *files)
    return np.fromfile(folder / "logits.bin", dtype=np.float32)


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    for name in FAMILIES:
        family, program = lowered_family(name)
        write_case(folder, name, program, family.inputs(), family(*family.inputs()))
    return folder


def test_every_operator(native, cases):
    assert f"{len(FAMILIES)} passed, 0 failed" in run(native("packqvit_conformance"), cases)


def test_a_wrong_bit_is_noticed(native, cases, tmp_path):
    for path in cases.glob("softmax.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    output = tmp_path / "softmax.out0.bin"
    output.write_bytes(bytes([output.read_bytes()[0] ^ 1]) + output.read_bytes()[1:])
    result = subprocess.run([*native("packqvit_conformance"), str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    assert "FAILED softmax" in result.stdout and "0 passed, 1 failed" in result.stdout


@pytest.mark.parametrize("preset", PRESETS)
def test_micro_vit(native, preset, tmp_path):
    batch, program = images(8), micro_program(preset)
    np.testing.assert_array_equal(runner_logits(native, program, batch, tmp_path), eager_logits(program, batch).numpy())


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_vit_tiny_on_real_pictures(native, preset, data_root, tmp_path):
    program, (batch, _) = vit_tiny_program(data_root, preset), pictures(data_root)
    assert program.report.is_whole, program.report.render()
    expected = vit_tiny_logits(data_root, preset)
    np.testing.assert_array_equal(runner_logits(native, program, batch, tmp_path), expected.numpy())
