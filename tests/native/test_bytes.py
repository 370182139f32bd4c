"""Programs that take bytes give the bits of the float program on normalised bytes, without Python too."""

from __future__ import annotations

import copy
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import aarch64_command, host_command
from models import MICRO, plain_model
from native.test_bits import run, runner_logits
from packqvit_delegate import Metadata, Program, export, lower, runtime
from packqvit_delegate.data import Preprocessing, synthetic_images
from packqvit_delegate.passes import take_bytes
from programs import pictures, vit_tiny_model, vit_tiny_program

LAYOUTS = ("hwc", "chw")
PREPROCESSING = Preprocessing(MICRO["image"])
PIXELS = synthetic_images(8, MICRO["image"])


def export_micro(**options) -> Program:
    images = PREPROCESSING.normalize(PIXELS)
    normalization = (PREPROCESSING.mean, PREPROCESSING.std)
    return export(plain_model(), (images[:1],), images, bits=8, input_normalization=normalization, **options)


def laid_out(pixels: torch.Tensor, layout: str) -> torch.Tensor:
    return pixels.permute(0, 2, 3, 1).contiguous() if layout == "hwc" else pixels


@pytest.fixture(scope="session")
def float_program() -> Program:
    return export_micro()


@pytest.fixture(scope="session", params=LAYOUTS)
def byte_program(request) -> tuple[str, Program]:
    return request.param, export_micro(byte_input=request.param)


@pytest.fixture(scope="session", params=LAYOUTS)
def top_program(request) -> tuple[str, Program]:
    return request.param, export_micro(byte_input=request.param, top_k=3)


def test_logits_of_bytes(native, float_program, byte_program, tmp_path):
    layout, program = byte_program
    assert program.report.is_whole, program.report.render()
    expected = runner_logits(native, float_program, PREPROCESSING.normalize(PIXELS), tmp_path)
    actual = runner_logits(native, program, laid_out(PIXELS, layout), tmp_path)
    np.testing.assert_array_equal(actual, expected)


def test_every_byte_in_every_channel(float_program, byte_program):
    layout, program = byte_program
    bytes_of_planes = torch.arange(256, dtype=torch.uint8).repeat(3 * 4).reshape(1, 3, 32, 32)
    expected = runtime.load(float_program.buffer).run(PREPROCESSING.normalize(bytes_of_planes))[0]
    actual = runtime.load(program.buffer).run(laid_out(bytes_of_planes, layout))[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_top_k_is_that_of_the_logits(native, float_program, top_program, tmp_path):
    layout, program = top_program
    assert program.report.is_whole, program.report.render()
    program.save(tmp_path / "top.pte")
    logits = runner_logits(native, float_program, PREPROCESSING.normalize(PIXELS), tmp_path).reshape(8, -1)
    (tmp_path / "pixels.bin").write_bytes(laid_out(PIXELS, layout).numpy().tobytes())
    files = ("--model", tmp_path / "top.pte", "--batch-file", tmp_path / "pixels.bin", "--output", tmp_path / "top.bin")
    run(native("packqvit_runner"), *files)
    outputs = np.fromfile(tmp_path / "top.bin", dtype=np.int32).reshape(8, 2, 3)  # indices, then scores
    best = np.argsort(-logits, axis=1, kind="stable")[:, :3]
    np.testing.assert_array_equal(outputs[:, 0], best)
    np.testing.assert_array_equal(outputs[:, 1].view(np.float32), np.take_along_axis(logits, best, 1))


@pytest.mark.parametrize("suffix", ["ppm", "rgb"])
def test_runner_reads_pictures(native, top_program, tmp_path, suffix):
    layout, program = top_program
    program.save(tmp_path / "top.pte")
    picture = laid_out(PIXELS[:1], "hwc")[0].numpy()
    file = tmp_path / f"picture.{suffix}"
    if suffix == "ppm":
        Image.fromarray(picture).save(file)
    else:
        file.write_bytes(picture.tobytes())
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {i}\n" for i in range(MICRO["classes"])))
    indices, scores = runtime.load(program.buffer).run(laid_out(PIXELS[:1], layout))
    lines = [f"{i:5d}  {s:10.5f}  class {i}" for i, s in zip(indices[0].tolist(), scores[0].tolist(), strict=True)]
    arguments = ("--model", tmp_path / "top.pte", "--image", file, "--labels", names)
    assert "\n".join(lines) + "\n" in run(native("packqvit_runner"), *arguments)


SMALL = b"\0" * (3 * 31 * 32)
WHOLE = b"\0" * (3 * 32 * 32)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.ppm", b"P6 31 32 255\n" + SMALL, "31 x 32 pixels, the model takes 32 x 32 pixels"),
        ("a.ppm", b"P6 32 32 255\n" + SMALL, "2976 bytes follow its header"),
        ("a.ppm", b"P6 32 32 65535\n" + WHOLE, "largest value is not 255"),
        ("a.ppm", b"P6 0 32 255\n" + WHOLE, "width is not in"),
        ("a.ppm", b"P6 32 99999999999999999999 255\n" + WHOLE, "height is not in"),
        ("a.ppm", b"P6 32 32", "maximum is not in"),
        ("a.ppm", b"P6 32 32 255", "no white space behind its header"),
        ("a.ppm", b"P3 32 32 255\n" + WHOLE, "does not begin with P6"),
        ("a.ppm", b"", "does not begin with P6"),
        ("a.rgb", SMALL, "has 2976 bytes, raw RGB needs 3072"),
    ],
)
def test_runner_refuses_pictures(byte_program, tmp_path, name, content, reason):
    byte_program[1].save(tmp_path / "model.pte")
    (tmp_path / name).write_bytes(content)
    runner = str(runtime.executable_path("packqvit_runner"))
    command = [runner, "--model", str(tmp_path / "model.pte"), "--image", str(tmp_path / name)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert reason in result.stderr


def test_ppm_with_comments(byte_program, tmp_path):
    byte_program[1].save(tmp_path / "model.pte")
    (tmp_path / "a.ppm").write_bytes(b"P6\n# 99 a camera\n32 # wide\n32\n255\n" + WHOLE)
    arguments = ("--model", tmp_path / "model.pte", "--image", tmp_path / "a.ppm")
    assert "latency" in run([str(runtime.executable_path("packqvit_runner"))], *arguments)


def test_runner_normalises_as_the_program_says(native, tmp_path):
    """And names the classes as it does."""
    names = [f"class {i}" for i in range(MICRO["classes"])]
    program = export_micro(metadata=Metadata("micro", PREPROCESSING, names, "classification"))
    program.save(tmp_path / "model.pte")
    Image.fromarray(laid_out(PIXELS[:1], "hwc")[0].numpy()).save(tmp_path / "a.ppm")
    files = ("--model", tmp_path / "model.pte", "--image", tmp_path / "a.ppm", "--output", tmp_path / "logits.bin")
    printed = run(native("packqvit_runner"), *files)
    expected = runtime.load(program.buffer).run(PREPROCESSING.normalize(PIXELS[:1]))[0]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "logits.bin", dtype=np.float32), expected.flatten())
    assert f"  class {int(expected.argmax())}\n" in printed
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(9)))
    command = [*native("packqvit_runner"), *map(str, files), "--labels", str(tmp_path / "names.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1 and "contradicts the class names in" in result.stderr


def test_runner_refuses_a_picture_for_a_float_program(float_program, tmp_path):
    float_program.save(tmp_path / "model.pte")
    (tmp_path / "a.rgb").write_bytes(WHOLE)
    runner = str(runtime.executable_path("packqvit_runner"))
    command = [runner, "--model", str(tmp_path / "model.pte"), "--image", str(tmp_path / "a.rgb")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "this one takes Float [1, 3, 32, 32]: export it with byte input" in result.stderr


@pytest.fixture(scope="session")
def vit_tiny(data_root) -> tuple[dict[str, Program], torch.Tensor, np.ndarray]:
    """A program that takes bytes for each layout, the bytes of 8 real pictures, and the float program's logits."""
    program, (_, pixels) = vit_tiny_program(data_root, "W4A4"), pictures(data_root)
    preprocessing = vit_tiny_model(data_root).preprocessing
    programs = {}
    for layout in LAYOUTS:
        takes_bytes = copy.deepcopy(program.integer_module)
        take_bytes(takes_bytes, preprocessing.mean, preprocessing.std, channels_last=layout == "hwc")
        programs[layout] = lower(takes_bytes, (laid_out(pixels[:1], layout),))
    model = runtime.load(program.buffer)
    logits = [model.run(image)[0].flatten() for image in preprocessing.normalize(pixels).split(1)]
    return programs, pixels, torch.cat(logits).numpy()


MACHINES = [
    pytest.param(partial(host_command, ""), id="host-best"),
    pytest.param(partial(host_command, "reference"), id="host-reference"),
    pytest.param(partial(aarch64_command, "max,sme=off"), id="aarch64-max,sme=off", marks=pytest.mark.aarch64),
    pytest.param(partial(host_command, "avx2"), id="host-avx2", marks=pytest.mark.wide),
    *(
        pytest.param(partial(aarch64_command, cpu), id=f"aarch64-{cpu}", marks=[pytest.mark.aarch64, pytest.mark.wide])
        for cpu in ("cortex-a72", "cortex-a76")
    ),
]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("native", MACHINES, indirect=True)
def test_vit_tiny_on_the_bytes_of_real_pictures(native, vit_tiny, layout, tmp_path: Path):
    programs, pixels, expected = vit_tiny
    np.testing.assert_array_equal(runner_logits(native, programs[layout], laid_out(pixels, layout), tmp_path), expected)
