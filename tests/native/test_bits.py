"""The native programs, on this machine and on aarch64 under qemu, give the bits of the eager integer graph."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conformance.cases import FAMILIES, make_family
from conformance.suite import write_case
from models import images, plain_model
from packqvit_delegate import Program, export
from packqvit_delegate.data import ImageFolder
from packqvit_delegate.models import load

PRESETS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}


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


def eager_logits(program: Program, batch: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return torch.cat([program.integer_module(image)[0].flatten() for image in batch.split(1)]).numpy()


@pytest.fixture(scope="session")
def cases(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conformance")
    for name in FAMILIES:
        module = make_family(name)
        write_case(folder, name, module.lower(), module.inputs(), module(*module.inputs()))
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
    bits, activation_bits = PRESETS[preset]
    batch = images(8)
    program = export(plain_model(), (batch[:1],), batch, bits=bits, activation_bits=activation_bits)
    np.testing.assert_array_equal(runner_logits(native, program, batch, tmp_path), eager_logits(program, batch))


@pytest.fixture(scope="session", params=PRESETS)
def vit_tiny(request, data_root) -> tuple[Program, torch.Tensor, np.ndarray]:
    """ViT-Tiny with trained weights, 8 real pictures, and the eager integer graph's logits for them."""
    bits, activation_bits = PRESETS[request.param]
    loaded = load("vit_tiny", data_root / "vit_tiny_patch16_224.in1k.safetensors")
    normalization = (loaded.preprocessing.mean, loaded.preprocessing.std)
    folder = ImageFolder.open(data_root / "imagenet_one_per_class_1000").sample(8)
    calibration = next(folder.batches(8, loaded.preprocessing)).images
    program = export(
        loaded.module,
        (calibration[:1],),
        calibration,
        bits=bits,
        activation_bits=activation_bits,
        input_normalization=normalization,
    )
    batch = next(ImageFolder.open(data_root / "ilsvrc_val_500").batches(8, loaded.preprocessing)).images
    return program, batch, eager_logits(program, batch)


@pytest.mark.data
@pytest.mark.slow
def test_vit_tiny_on_real_pictures(native, vit_tiny, tmp_path):
    program, batch, expected = vit_tiny
    assert program.report.is_whole, program.report.render()
    np.testing.assert_array_equal(runner_logits(native, program, batch, tmp_path), expected)
