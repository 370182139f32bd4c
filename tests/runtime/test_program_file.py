"""A file that is no program, or a damaged one, is refused with what it seems to be; the process goes on."""

from __future__ import annotations

import io
import pickle
import random
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from models import images, plain_model
from packqvit_delegate import MissingFileError, PackQViTError, export, runtime
from packqvit_delegate.runtime.program_file import read_program


@pytest.fixture(scope="module")
def program() -> bytes:
    batch = images(2)
    return export(plain_model(), (batch[:1],), batch, bits=8).buffer


def checkpoint() -> bytes:
    file = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, file)
    return file.getvalue()


FOREIGN = {
    "empty": (b"", "is empty"),
    "one byte": (b"\x10", "something else"),
    "random bytes": (bytes(range(256)) * 9, "something else, beginning with the bytes 00 01 02"),
    "zeros": (bytes(4096), "a file of zeros"),
    "text": (b"synset,label\nn01440764,0\n" * 9, "a text, beginning with 'synset,label"),
    "web page": (b"<!DOCTYPE html><html>", "a web page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "checkpoint": (checkpoint(), "a zip file, as checkpoints of torch.save"),
    "pickle": (pickle.dumps({"w": [1, 2, 3]}), "a pickle"),
    "safetensors": (save({"w": torch.zeros(3)}), "weights (.safetensors)"),
    "data": (b"\x20\0\0\0FT01" + bytes(64), "file of data (.ptd)"),
    "bundled": (b"\x20\0\0\0BP08" + bytes(64), "a bundled program"),
    "newer": (b"\x20\0\0\0ET13" + bytes(64), "another version of ExecuTorch (ET13)"),
    "not text": (b"\x20\0\0\0\xff\xfe\x80\x81" + bytes(64), "something else"),
    "identifier alone": (b"\x20\0\0\0ET12", "is cut off"),
    "identifier and noise": (b"\x20\0\0\0ET12" + random.Random(0).randbytes(500), "is damaged"),
    "header and noise": (b"\x20\0\0\0ET12eh00" + random.Random(0).randbytes(500), "is"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_program(name: str, tmp_path: Path) -> None:
    content, reason = FOREIGN[name]
    path = tmp_path / "model.pte"
    path.write_bytes(content)
    for source in (content, path, str(path)):
        with pytest.raises(PackQViTError) as raised:
            runtime.load(source)
        assert reason in str(raised.value)
    assert str(path) in str(raised.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is a folder"):
        runtime.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        runtime.load(tmp_path / "gone.pte")


def test_a_part_of_a_program(program: bytes) -> None:
    assert read_program(program) == program
    for keep in (7, 8, 20, 39, 41, 100, len(program) // 2, len(program) - 1):
        with pytest.raises(PackQViTError, match="cut off|no ExecuTorch program"):
            read_program(program[:keep])


@pytest.mark.parametrize("offset", [12, 16, 24, 0])
def test_a_header_that_contradicts_itself(program: bytes, offset: int) -> None:
    for value in (0, 1, (1 << 32) - 1):
        with pytest.raises(PackQViTError, match="damaged|cut off"):
            read_program(program[:offset] + struct.pack("<I", value) + program[offset + 4 :])


_FUZZ = textwrap.dedent(
    """
    import pathlib, random, sys
    import torch
    from packqvit_delegate import PackQViTError, runtime

    program = pathlib.Path(sys.argv[1]).read_bytes()
    tables = int.from_bytes(program[16:24], "little")
    draw, refused = random.Random(int(sys.argv[2])), 0
    for _ in range(int(sys.argv[3])):
        broken = bytearray(program)
        for _ in range(draw.choice([1, 1, 2, 8])):
            where = draw.randrange(tables)
            broken[where] = draw.choice([broken[where] ^ (1 << draw.randrange(8)), 0, 255, 127, 128])
        if draw.random() < 0.1:
            del broken[draw.randrange(len(broken)) :]
        try:
            model = runtime.load(bytes(broken))
            model.inputs(), model.outputs(), model.run(torch.zeros(1, 3, 32, 32))
        except PackQViTError:
            refused += 1
    print("refused", refused)
    """
)


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_tables_never_end_the_process(program: bytes, seed: int, tmp_path: Path) -> None:
    """Names that are no UTF-8, indices out of range and fields that are missing: ExecuTorch trusts all of them."""
    path = tmp_path / "program.pte"
    path.write_bytes(program)
    result = subprocess.run(
        [sys.executable, "-c", _FUZZ, str(path), str(seed), "600"], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[-1]) > 300


def test_inputs_of_another_kind(program: bytes) -> None:
    model, x = runtime.load(program), images(1)
    expected = model.run(x)[0].clone()
    frozen = x.numpy().copy()
    frozen.setflags(write=False)
    for same in (frozen, x.to(memory_format=torch.channels_last), x.clone().requires_grad_()):
        assert torch.equal(model.run(same)[0], expected)
    takes = r"it takes torch\.float32 \(1, 3, 32, 32\)"
    for inputs, reason in (
        ((), "takes 1 input.*0 were given"),
        ((x, x), "takes 1 input.*2 were given"),
        ((None,), "input 0 is None"),
        (([x],), "input 0 is a list"),
        ((np.array(["a"]),), "input 0 is a numpy array"),
        ((x.double(),), f"float64.*{takes}"),
        ((x.numpy().astype(np.float64),), f"float64.*{takes}"),
        ((x[0],), takes),
        ((x.to("meta"),), "must lie on the CPU"),
        ((x.to_sparse(),), "must lie on the CPU"),
    ):
        with pytest.raises(PackQViTError, match=reason):
            model.run(*inputs)
    assert [(takes.shape, takes.dtype) for takes in model.outputs()] == [((1, 10), torch.float32)]
