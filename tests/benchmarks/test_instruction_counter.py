"""The qemu plugin on a program whose instructions are known."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.instructions import Counts, count, summary

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.aarch64,
    pytest.mark.skipif(
        not all(map(shutil.which, ("gcc", "aarch64-linux-gnu-gcc", "qemu-aarch64"))), reason="no compilers or no qemu"
    ),
]

ROUNDS = 1000
# One instruction of each class, 1000 times, with instructions before, between and behind the markers.
BODY = {
    "sdot v0.4s, v1.16b, v2.4b[1]": "sdot",
    "udot v0.4s, v1.16b, v2.16b": "sdot",
    "smmla v0.4s, v1.16b, v2.16b": "smmla",
    "smlal2 v0.8h, v1.16b, v2.16b": "smlal",
    "smull v0.8h, v1.8b, v2.8b": "smull",
    "sadalp v0.4s, v1.8h": "sadalp",
    "mla v0.16b, v1.16b, v2.16b": "mla",
    "mla v0.8h, v1.8h, v2.h[3]": "mla",
    "mul v0.8h, v1.8h, v2.8h": "mul",
    "sqrdmulh v0.8h, v1.8h, v2.8h": "sqrdmulh",
    "tbl v0.16b, {v1.16b, v2.16b}, v3.16b": "tbl",
    "fmla v0.4s, v1.4s, v2.s[2]": "fmla",
    "fmls v0.4s, v1.4s, v2.4s": "fmla",
    "fadd s0, s1, s2": "scalar float",
    "add v0.4s, v1.4s, v2.4s": "other simd",
    "ld1 {v0.16b, v1.16b}, [x1]": "simd load",
    "ld1r {v0.4s}, [x1]": "simd load",
    "ldr q0, [x1]": "simd load",
    "ldp q0, q1, [x1]": "simd load",
    "st1 {v0.16b}, [x1]": "simd store",
    "stp q0, q1, [x1]": "simd store",
    "str d0, [x1, #8]": "simd store",
    "ldrsb x2, [x1]": "load",
    "ldp x2, x3, [x1]": "load",
    "ldr x2, [x1, x4]": "load",
    "stp x2, x3, [x1]": "store",
    "strb w2, [x1, #1]": "store",
    "subs x0, x0, #1": "other",
    "b.ne 1b": "branch",
}


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counter")
    plugin = folder / "libinstruction_counter.so"
    source = ROOT / "benchmarks" / "qemu" / "instruction_counter.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
    subprocess.run(["gcc", *flags, "-o", str(plugin), str(source)], check=True)

    def build(name: str, markers: tuple[str, str]) -> Path:
        code = [
            ".arch armv8.2-a+dotprod+i8mm",
            ".global _start",
            "_start: adr x1, data",
            "mov x4, #8",
            f"mov x0, #{ROUNDS}",
            markers[0],
            *("1: " + line if i == 0 else line for i, line in enumerate(BODY)),
            markers[1],
            "mov x0, #0",
            "mov x8, #93",
            "svc #0",
            ".data",
            ".balign 16",
            "data: .zero 64",
        ]
        # The loop writes the data that adr names: .data behind .text of one small, writable segment.
        text = "\n".join(code).replace(".data\n", "")
        (folder / f"{name}.s").write_text(text + "\n")
        program = folder / name
        options = ["-nostdlib", "-static", "-Wl,--omagic"]
        subprocess.run(["aarch64-linux-gnu-gcc", *options, "-o", str(program), str(folder / f"{name}.s")], check=True)
        return program

    return plugin, build


def test_counts_are_exact(tools):
    plugin, build = tools
    counts = count([str(build("loop", ("hint #96", "hint #97")))], "max,sme=off", plugin)
    expected: dict[str, int] = {}
    for kind in BODY.values():
        expected[kind] = expected.get(kind, 0) + ROUNDS
    assert counts.classes == expected
    assert counts.instructions == ROUNDS * len(BODY)


def test_a_program_without_markers_is_refused(tools):
    plugin, build = tools
    with pytest.raises(RuntimeError, match="no markers"):
        count([str(build("plain", ("nop", "nop")))], "max,sme=off", plugin)


def test_summary_compares_on_the_same_cpu():
    results = {
        "cortex-a72": {"W4A4": Counts(300_000_000, {}), "XNNPACK int8": Counts(600_000_000, {})},
        "cortex-a76": {"W4A4": Counts(100_000_000, {}), "XNNPACK int8": Counts(200_000_000, {})},
    }
    table = summary(results, "XNNPACK int8")
    columns = [list(column.cells) for column in table.columns]
    assert columns == [["W4A4", "XNNPACK int8"], ["300.0", "600.0"], ["0.500", "1.000"], ["100.0", "200.0"]] + [
        ["0.500", "1.000"]
    ]
