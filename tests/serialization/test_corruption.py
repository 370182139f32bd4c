"""A corrupt, foreign or newer program is refused with an error; it never crashes the process."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import pytest
import torch

from models import images
from packqvit_delegate import PackQViTError, PlanError, runtime
from packqvit_delegate.serialization import blob
from packqvit_delegate.serialization.constants import pack_nibbles, unpack_nibbles
from programs import micro_program


@pytest.fixture(scope="module")
def program() -> bytes:
    return micro_program("W4A4").buffer


def header_at(program: bytes) -> int:
    return program.index(blob.MAGIC)


def test_nibbles_survive_packing() -> None:
    codes = torch.randint(-8, 8, (5, 7), generator=torch.Generator().manual_seed(0)).to(torch.int8).numpy()
    assert (unpack_nibbles(pack_nibbles(codes), 7) == codes).all()


def test_the_header_is_checked_in_python_too(program: bytes) -> None:
    at = header_at(program)
    size = struct.unpack_from("<8sIIQII", program, at)[3]
    whole = program[at : at + 32 + size]
    plan = blob.unwrap_plan(whole)
    assert blob.wrap_plan(plan) == whole
    for broken in (b"", whole[:20], b"X" + whole[1:], whole[:-1], whole[:40] + b"\xff" + whole[41:]):
        with pytest.raises(PlanError):
            blob.unwrap_plan(broken)
    with pytest.raises(PlanError, match=f"version {blob.PLAN_VERSION + 1}"):
        blob.unwrap_plan(whole[:8] + struct.pack("<I", blob.PLAN_VERSION + 1) + whole[12:])


def test_a_truncated_program_is_refused(program: bytes) -> None:
    for keep in (0, 3, 40, len(program) // 3, len(program) // 2):
        with pytest.raises(PackQViTError):
            runtime.load(program[:keep]).run(images(1))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"FOREIGN!"),
        (8, struct.pack("<I", blob.PLAN_VERSION + 1)),
        (12, struct.pack("<I", 64)),
        (16, struct.pack("<Q", 1 << 40)),
    ],
    ids=["foreign", "newer version", "header size", "plan size"],
)
def test_a_wrong_header_is_refused(program: bytes, offset: int, value: bytes) -> None:
    at = header_at(program) + offset
    with pytest.raises(PackQViTError):
        runtime.load(program[:at] + value + program[at + len(value) :])


def test_a_flipped_weight_bit_is_noticed(program: bytes) -> None:
    at = len(program) * 3 // 4
    with pytest.raises(PackQViTError):
        runtime.load(program[:at] + bytes([program[at] ^ 4]) + program[at + 1 :])


_FUZZ = textwrap.dedent(
    """
    import pathlib, random, struct, sys, zlib
    import torch
    from packqvit_delegate import PackQViTError, runtime

    program = pathlib.Path(sys.argv[1]).read_bytes()
    at = program.index(b"PQVITBLB")
    size = struct.unpack_from("<Q", program, at + 16)[0]
    draw, refused = random.Random(int(sys.argv[2])), 0
    for _ in range(int(sys.argv[3])):
        plan = bytearray(program[at + 32 : at + 32 + size])
        for _ in range(draw.choice([1, 1, 2, 8])):
            where = draw.randrange(size)
            plan[where] = draw.choice([plan[where] ^ (1 << draw.randrange(8)), 0, 255, 127, 128, draw.randrange(256)])
        header = bytearray(program[at : at + 32])
        header[24:28] = struct.pack("<I", zlib.crc32(plan))  # so that only the checks behind it stand in the way
        broken = program[:at] + bytes(header) + bytes(plan) + program[at + 32 + size :]
        try:
            runtime.load(broken).run(torch.zeros(1, 3, 32, 32))
        except PackQViTError:
            refused += 1
    print("refused", refused)
    """
)


@pytest.mark.parametrize("seed", [0, 1])
def test_damaged_plans_never_crash(program: bytes, seed: int, tmp_path: Path) -> None:
    """In a process of its own: a crash would otherwise take pytest with it."""
    path = tmp_path / "program.pte"
    path.write_bytes(program)
    result = subprocess.run(
        [sys.executable, "-c", _FUZZ, str(path), str(seed), "400"], capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[-1]) > 100  # most damage is noticed; the rest hits names and debug ids


def test_a_program_needs_the_library(program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "program.pte"
    path.write_bytes(program)
    script = f"""
from executorch.runtime import Runtime
Runtime.get().load_program({str(path)!r}).load_method("forward")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert result.returncode == 1 and "PackQViTBackend" in result.stdout + result.stderr


def test_random_bit_flips_of_the_whole_file(program: bytes) -> None:
    """Flips in the delegate's data are refused; those outside it are ExecuTorch's to judge."""
    draw = random.Random(0)
    at, size = header_at(program), struct.unpack_from("<Q", program, header_at(program) + 16)[0]
    for _ in range(50):
        where = at + draw.randrange(32 + size)
        if 28 <= where - at < 32:
            continue  # reserved
        with pytest.raises(PackQViTError):
            runtime.load(program[:where] + bytes([program[where] ^ (1 << draw.randrange(8))]) + program[where + 1 :])
    assert zlib.crc32(program[at + 32 : at + 32 + size]) == struct.unpack_from("<I", program, at + 24)[0]
