"""Ratios, tables and files of the model benchmark, from made-up timings."""

from __future__ import annotations

import json

import pytest

from benchmarks.contestants import Contestant
from benchmarks.memory import parse_peak_memory
from benchmarks.operators import add_up
from benchmarks.report import Results, latency_table, operator_table, plot, ratio, speed_up, write_json
from benchmarks.timing import Timing


@pytest.fixture
def results() -> Results:
    timings = [
        Timing("W8A8", 1, [6.0, 5.0, 9.0], [6.0, 5.0, 7.0]),
        Timing("XNNPACK int8", 1, [15.0, 15.0, 16.0], [15.0, 15.0, 15.0]),
        Timing("W8A8", 2, [4.0, 3.0, 3.0], [8.0, 8.0, 8.0]),
        Timing("XNNPACK int8", 2, [9.0, 9.0, 9.0], [18.0, 18.0, 18.0]),
    ]
    return Results("deit_tiny", "reference", timings, {"W8A8": 18.0}, {"W8A8": {"linear": 4.5, "softmax": 0.5}})


def test_ratios_are_those_of_medians(results):
    assert ratio(results, results.timings[1], "W8A8") == 2.5
    assert ratio(results, results.timings[3], "W8A8") == 3.0
    assert ratio(results, results.timings[1], "W4A4") is None
    assert speed_up(results, results.timings[2]) == 2.0
    assert speed_up(results, results.timings[0]) is None


def test_latency_tables(results):
    columns = {column.header: list(column.cells) for column in latency_table(results, 1).columns}
    assert columns == {
        "": ["W8A8", "XNNPACK int8"],
        "median": ["6.00", "15.00"],
        "min": ["5.00", "15.00"],
        "CPU": ["6.00", "15.00"],
        "/ W8A8": ["1.00", "2.50"],
        "MiB": ["18.0", ""],
    }
    columns = {column.header: list(column.cells) for column in latency_table(results, 2).columns}
    assert columns["speed-up"] == ["2.00", "1.67"] and "MiB" not in columns


def test_operator_table(results):
    columns = [list(column.cells) for column in operator_table(results).columns]
    assert columns == [["linear", "softmax", "sum"], ["4.500", "0.500", "5.000"], ["90.0", "10.0", ""]]


def test_times_of_one_operator_are_added_up():
    names = {"0/0": "linear", "0/1": "softmax", "2/0": "linear"}
    assert add_up({"0/0": 1.0, "0/1": 2.0, "2/0": 3.0}, names) == {"linear": 4.0, "softmax": 2.0}
    assert list(add_up({"0/0": 1.0, "0/1": 2.0}, names)) == ["softmax", "linear"]


def test_operators_of_others_are_told_apart():
    times = {"0/0": 1.0, "1/GELU (NC) #1": 2.0, "3/GELU (NC) #1": 3.0, "2/native_call_native_layer_norm.out": 0.5}
    assert add_up(times, {"0/0": "linear"}) == {
        "XNNPACK: GELU (NC)": 5.0,
        "linear": 1.0,
        "outside: native_layer_norm.out": 0.5,
    }


def test_hybrids_have_ratios_like_whole_programs():
    results = Results("mobilevit_s", "reference", [Timing("W8A8 + XNNPACK", 1, [2.0], [2.0])])
    results.timings.append(Timing("XNNPACK fp32", 1, [3.0], [3.0]))
    columns = {column.header: list(column.cells) for column in latency_table(results, 1).columns}
    assert columns["/ W8A8 + XNNPACK"] == ["1.00", "1.50"]


def test_json(results, tmp_path):
    write_json(results, tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["timings"][1]["ratios"] == {"W8A8": 2.5}
    assert document["peak_memory_mib"] == {"W8A8": 18.0}
    assert document["cpu"] and "torch" in document["versions"]


def test_plot(results, tmp_path):
    pytest.importorskip("matplotlib")
    plot([results], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_peak_memory_is_read_from_the_runner():
    assert parse_peak_memory("latency: ...\nmemory: peak resident 18.5 MiB\n") == 18.5
    with pytest.raises(ValueError, match="did not report"):
        parse_peak_memory("latency: ...\n")


def test_contestants_can_be_sent_to_another_process(tmp_path):
    import pickle

    contestant = Contestant("W8A8", "executorch", tmp_path / "w8a8.pte")
    assert pickle.loads(pickle.dumps(contestant)) == contestant
