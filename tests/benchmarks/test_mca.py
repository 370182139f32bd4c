"""Reading assembly and llvm-mca: what a loop multiplies, where it ends, what share of a peak it reaches."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from benchmarks.mca import (
    PEAKS,
    Rate,
    drop_branches,
    enclose_loops,
    model_file,
    parse_cycles,
    parse_regions,
    rate_table,
)

SDOT = """
.LBB0_1:                                // =>This Inner Loop Header: Depth=1
\tldr q5, [x0], #16
\t//APP
\t// LLVM-MCA-BEGIN sdot_1x2
\t//NO_APP
\tsdot v0.4s, v2.16b, v3.4b[0]
\t//APP
\t// LLVM-MCA-END
\t//NO_APP
\tsdot v1.4s, v2.16b, v3.4b[1]
\tsubs x1, x1, #1
\tb.ne .LBB0_1
\tret
"""


def region(body: str, name: str = "loop") -> str:
    return f"\t# LLVM-MCA-BEGIN {name}\n" + "".join(f"\t{line}\n" for line in body.splitlines()) + "\t# LLVM-MCA-END\n"


@pytest.mark.parametrize(
    ("body", "route", "macs"),
    [
        ("sdot v0.4s, v1.16b, v2.4b[0]\nudot v3.4s, v1.16b, v2.16b", "sdot", 32),
        ("smmla v0.4s, v1.16b, v2.16b\nldr q0, [x0]", "smmla", 32),
        ("mul v0.16b, v1.16b, v2.16b\nmla v0.16b, v3.16b, v4.16b\nsadalp v5.8h, v0.16b", "mla", 32),
        ("smlal v0.8h, v1.8b, v2.8b\nsmlal2 v0.8h, v1.16b, v2.16b", "smlal", 16),
        ("smull v0.8h, v1.8b, v2.8b\nsmlal2 v0.8h, v1.16b, v2.16b\nsadalp v3.4s, v0.8h", "smull", 16),
        ("sdot v0.4s, v1.16b, v2.16b\nmul v3.4s, v4.4s, v5.4s // not codes", "sdot", 16),
    ],
)
def test_multiplications_are_counted(body, route, macs):
    (found,) = parse_regions(region(body))
    assert (found.route, found.macs) == (route, macs)


def test_a_name_can_declare_what_instructions_do_not_show():
    (found,) = parse_regions(region("mul v0.8h, v1.8h, v2.8h\nadd v3.8h, v3.8h, v0.8h", "pairs route=two macs=16"))
    assert (found.name, found.route, found.macs, found.instructions) == ("pairs", "two", 16, 2)


def test_markers_move_to_the_ends_of_their_loop():
    assert parse_regions(SDOT)[0].macs == 16
    (found,) = parse_regions(enclose_loops(SDOT))
    assert found.macs == 32
    lines = [line.strip() for line in enclose_loops(SDOT).splitlines()]
    begin, end = lines.index("// LLVM-MCA-BEGIN sdot_1x2"), lines.index("// LLVM-MCA-END")
    assert lines[begin - 1].startswith(".LBB0_1:") and lines[begin + 1].startswith("ldr q5")
    assert lines[end - 1] == "b.ne .LBB0_1"


def test_branches_of_marked_loops_are_dropped():
    lines = drop_branches(enclose_loops(SDOT)).splitlines()
    assert not any("b.ne" in line for line in lines)
    assert "\tsubs x1, x1, #1" in lines and "\tret" in lines
    assert "\tb 1f" in drop_branches("\tb 1f\n" + region("b.ne 1b\nnop")).splitlines()


@pytest.mark.parametrize(
    "assembly",
    [
        region("sdot v0.4s, v1.16b, v2.16b"),  # no loop
        SDOT.replace("b.ne .LBB0_1", "b.ne .LBB0_7"),  # a branch elsewhere
        SDOT.replace("\tsubs", ".LBB0_2:\n\tsubs"),  # two basic blocks
    ],
)
def test_other_markers_stay(assembly):
    assert enclose_loops(assembly) == assembly


def test_cycles_of_each_region():
    regions = [{"SummaryView": {"Iterations": 100, "TotalCycles": cycles}} for cycles in (250, 1203)]
    assert parse_cycles(json.dumps({"CodeRegions": regions})) == [2.5, 12.03]


def test_table_has_a_dash_where_a_core_lacks_the_route():
    rates = [Rate("neoverse-n1", "a", "sdot", 24, 32, 12.5), Rate("neoverse-n2", "b", "smmla", 64, 64, 20)]
    columns = [list(column.cells) for column in rate_table(rates).columns]
    assert columns == [["a", "b"], ["sdot", "smmla"], ["12.5", "20.0"], ["24.0\n75%", "-"], ["-", "64.0\n100%"]]


@pytest.mark.skipif(shutil.which("llvm-mca-19") is None, reason="no llvm-mca-19")
def test_llvm_mca_finds_the_marked_loop(tmp_path):
    assembly = tmp_path / "loop.s"
    sums = "\n".join(f"sdot v{i}.4s, v30.16b, v31.16b" for i in range(16))
    assembly.write_text(".arch armv8.2-a+dotprod\n" + region(sums, "sixteen sums"))
    rates = {rate.core: rate for rate in model_file(assembly, "llvm-mca-19")}
    assert set(rates) == set(PEAKS["sdot"])
    assert rates["neoverse-n1"].region == "sixteen sums"
    assert rates["neoverse-n1"].share == pytest.approx(1, abs=0.02)


def test_a_file_without_markers_is_not_modelled(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    assembly = tmp_path / "plain.s"
    assembly.write_text("\tret\n")
    assert model_file(assembly, "llvm-mca-19") == []
