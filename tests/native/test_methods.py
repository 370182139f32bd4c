"""The runner's choice among the methods of a program, that of the Python runtime."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.exir import to_edge_transform_and_lower

from native.test_bits import run
from native.test_bytes import PIXELS, export_micro, laid_out
from packqvit_delegate import PackQViTError, runtime

BATCH = laid_out(PIXELS, "hwc")


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """A program for one image and for four."""
    path = tmp_path_factory.mktemp("methods") / "both.pte"
    export_micro(byte_input="hwc", batch_sizes=(1, 4)).save(path)
    return path


@pytest.mark.parametrize(("method", "runs"), [(None, 8), ("forward", 8), ("forward_4", 2)])
def test_each_method(native, both, tmp_path, method, runs):
    (tmp_path / "images.bin").write_bytes(BATCH.numpy().tobytes())
    files = ("--model", both, "--batch-file", tmp_path / "images.bin", "--output", tmp_path / "logits.bin")
    printed = run(native("packqvit_runner"), *files, *(("--method", method) if method else ()))
    assert printed.startswith(f"{runs} inputs\n")
    model = runtime.load(both)
    expected = np.concatenate([model.run(image)[0].numpy().flatten() for image in BATCH.split(1)])
    np.testing.assert_array_equal(np.fromfile(tmp_path / "logits.bin", dtype=np.float32), expected)


def classes(both: Path, *arguments: object) -> list[str]:
    """The best class of each row of what `forward_4` gives."""
    runner = [str(runtime.executable_path("packqvit_runner"))]
    lines = run(runner, "--model", both, "--method", "forward_4", "--top", 1, *arguments).splitlines()
    return [lines[lines.index(f"row {row}") + 1].split()[0] for row in range(4)]


def test_each_row_has_its_classes(both, tmp_path):
    """Of a batch, or of a picture that is in all rows, as `Model.prepare` has it."""
    best = [str(index) for index in runtime.load(both, "forward_4").run(BATCH[:4])[0].argmax(1).tolist()]
    (tmp_path / "images.bin").write_bytes(BATCH[:4].numpy().tobytes())
    assert classes(both, "--input", tmp_path / "images.bin") == best
    (tmp_path / "picture.rgb").write_bytes(BATCH[0].numpy().tobytes())
    assert classes(both, "--image", tmp_path / "picture.rgb") == [best[0]] * 4


def refusal(*arguments: object) -> str:
    command = [str(runtime.executable_path("packqvit_runner")), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    return result.stderr


def test_an_unknown_method(both):
    assert f"no method forward_2 in {both}: it has forward, forward_4" in refusal(
        "--model", both, "--method", "forward_2"
    )


def test_the_only_method_may_have_any_name(both, tmp_path):
    """Beside constant methods, which are no choice."""
    integer = torch.export.export(torch.nn.Identity(), (torch.zeros(3),))
    edge = to_edge_transform_and_lower({"encode": integer}, constant_methods={"classes": 10})
    path = tmp_path / "encoder.pte"
    path.write_bytes(edge.to_executorch().buffer)
    runner = [str(runtime.executable_path("packqvit_runner"))]
    assert "output 0: Float [3]" in run(runner, "--model", path)
    assert torch.equal(runtime.load(path).run(torch.ones(3))[0], torch.ones(3))
    assert f"no method forward in {path}: it has encode" in refusal("--model", path, "--method", "forward")
    with pytest.raises(PackQViTError, match=r"no method 'forward', only \['encode'\]"):
        runtime.load(path, "forward")


def test_an_input_of_another_number_of_images(both, tmp_path):
    (tmp_path / "one.bin").write_bytes(BATCH[:1].numpy().tobytes())
    reason = refusal("--model", both, "--method", "forward_4", "--input", tmp_path / "one.bin")
    assert "has 3072 bytes, input 0 is Byte [4, 32, 32, 3]: 12288 bytes expected" in reason
