"""A short list of the zoo's models, and the tables of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from typer.testing import CliRunner

import torchvision_stub  # noqa: F401
from benchmarks.zoo.__main__ import app
from benchmarks.zoo.entry import Entry
from benchmarks.zoo.families import ENTRIES, FAMILIES
from benchmarks.zoo.page import page
from benchmarks.zoo.record import Record
from benchmarks.zoo.trial import try_out

WHOLE = [
    "vit_tiny_patch16_224, q/k norms, 2 layers",
    "vit_tiny_patch16_224, attention pooling, 2 layers",
    "vit_small_patch14_reg4_dinov2, 224 x 224, 2 layers",
    "eva02_tiny_patch14_224, 2 layers",
    "hf DINOv3ViTModel, last_hidden_state",
    "hf BeitForImageClassification, relative",
    "hf Dinov2Model, last_hidden_state, pooler_output",
    "hf BertModel, of embeddings",
]


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str, tmp_path: Path) -> None:
    record = try_out(ENTRIES[name], "W8A8", tmp_path)
    assert record.is_whole and record.is_exact, record
    assert min(record.decibels) > 28
    assert (tmp_path / f"{record.stem}.pte").stat().st_size == pytest.approx(record.size, rel=0.01)


def test_what_is_not_for_the_delegate_is_refused_by_name(tmp_path: Path) -> None:
    record = try_out(ENTRIES["poolformer_s12"], "W8A8", tmp_path)
    assert record.is_refused and "no multi-head self-attention" in record.error


def test_names_and_files_are_distinct() -> None:
    entries = [entry for family in FAMILIES.values() for entry in family]
    assert len(entries) == len(ENTRIES) == len({Record(entry.name, "W8A8").stem for entry in entries})


def made_up() -> tuple[dict[str, list[Entry]], dict[str, list[Record]]]:
    whole = Record("whole", "W8A8", "", False, 1, 30, 0, 0, [], [33.04, 28.0], True, 5_400_000, 2.0, 5.0)
    hybrid = Record("hybrid", "W8A8", "", False, 3, 20, 2, 7, ["stem: 5 aten::convolution: <why>", "b", "c"], [30.0])
    refused = Record("refused", "W8A8", "the model has no attention\nmore", True)
    failed = Record("failed", "W8A8", "KeyError: 'x'")
    records = {record.name: [record] for record in (whole, hybrid, refused, failed)}
    first = next(iter(ENTRIES.values()))
    return {"Family": [dataclasses.replace(first, name=name) for name in [*records, "not tried"]], "None": []}, records


def test_the_page_says_what_was_found() -> None:
    text = page(*made_up())
    assert text.startswith("4 models: 1 in one delegate call with nothing outside, 1 in part in float, 1 refused.")
    assert "| whole | whole | 33.0 / 28.0 | 5.4 | 2.0 | 2.50 |" in text
    assert "| hybrid | 3 calls, 7 of 27 operators in float | 30.0 | 0.0 |  |  |" in text
    assert "| refused | refused |  |  |  |  |" in text and "| failed | fails |" in text
    assert r"- hybrid: stem: 5 aten::convolution: \<why\>; b; and 1 more reason" in text
    assert "- refused: the model has no attention\n" in text
    assert "not tried" not in text and "## None" not in text


def test_without_times_there_are_no_columns_of_them() -> None:
    families, records = made_up()
    records["whole"][0].ms = None
    assert "| whole | whole | 33.0 / 28.0 | 5.4 |\n" in page(families, records)


def test_a_preset_that_only_some_were_tried_at() -> None:
    families, records = made_up()
    records["whole"].append(Record("whole", "W4A8", "", False, 1, 30, 0, 0, [], [14.0], True, 3_000_000))
    text = page(families, records)
    assert "| model | in integers | W8A8, dB | W8A8, MB | W4A8, dB | W4A8, MB | ms |" in text
    assert "| whole | whole | 33.0 / 28.0 | 5.4 | 14.0 | 3.0 | 2.0 | 2.50 |" in text
    assert "| hybrid | 3 calls, 7 of 27 operators in float | 30.0 | 0.0 |  |  |  |  |" in text


def test_long_reasons_are_cut() -> None:
    families, records = made_up()
    records["refused"][0].error = "so there is no Vision Transformer to run in integers: " + "word " * 99
    assert "- refused: word word" in page(families, records) and "word ...\n" in page(families, records)


def test_bits_that_differ_are_marked() -> None:
    families, records = made_up()
    records["whole"][0].is_exact = False
    assert "| 33.0 / 28.0, **bits differ** |" in page(families, records)


def test_the_command_keeps_what_was_tried(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "models.md").write_text("# Models\n<!-- begin models -->\n<!-- end models -->\n")
    arguments = ["--model", "nn.TransformerEncoder", "--rounds", "1", "--output", str(tmp_path), "--publish", str(docs)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    record = Record.read(tmp_path / "w8a8", "nn.TransformerEncoder")
    assert record is not None and record.is_whole and record.ms and record.peer_ms
    table = (docs / "models.md").read_text()
    assert "1 models: 1 in one delegate call" in table and "| nn.TransformerEncoder | whole |" in table
    again = CliRunner().invoke(app, [*arguments, "--keep"])
    assert again.exit_code == 0 and "W8A8" not in again.output
    assert Record.read(tmp_path / "w8a8", "nn.TransformerEncoder") == record


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--model", "vit_small_patch16_244", "--output", str(tmp_path)])
    said = " ".join(result.output.replace("│", " ").split())
    assert result.exit_code == 2 and "'vit_small_patch16_224'" in said
    assert not list(tmp_path.iterdir())
