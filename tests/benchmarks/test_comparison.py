"""Figures, table, page and picture of a comparison, from made-up measurements."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
import torch

from benchmarks import comparison_picture
from benchmarks.comparison import Comparison, Judgement, Row, replace_section
from packqvit_delegate.errors import PackQViTError


def row(name: str, top1: float, ms: float, megabytes: float) -> Row:
    return Row(name, Judgement(top1, top1 + 10, 0.0123), ms, ms - 1, int(megabytes * 1e6))


@pytest.fixture
def comparison() -> Comparison:
    rows = [
        row("W8A8", 80.6, 6.0, 6.0),
        row("W4A8", 80.4, 5.5, 3.3),
        row("W4A4", 68.4, 5.6, 3.3),
        row("XNNPACK int8 dynamic", 80.8, 13.9, 6.2),
        row("XNNPACK 8da4w", 78.8, 15.2, 4.1),
        row("XNNPACK int8 static", 0.2, 14.2, 6.3),
        row("XNNPACK fp32", 80.6, 28.0, 23.0),
        row("OpenVINO int8 NNCF", 80.4, 11.0, 6.1),
        row("ONNX Runtime int8 NNCF", 80.2, 15.0, 6.3),
        row("ONNX Runtime int8 dynamic", 78.0, 14.0, 6.6),
    ]
    return Comparison("vit_tiny", 80.6, 500, 128, "Some CPU", "avx2", {"torch": "2.13"}, "2026-01-02", rows)


def test_judgement() -> None:
    reference = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0]])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0], [1.0, 0.0]])
    judged = Judgement.of(logits, reference, [0, 1, 1, 0])
    assert (judged.top1, judged.same) == (75.0, 75.0)
    wanted, got = reference[3].softmax(0), logits[3].softmax(0)
    assert judged.nats == pytest.approx(float((wanted * (wanted / got).log()).sum()) / 4, rel=1e-5)
    assert Judgement.of(reference, reference, [0, 1, 0, 1]) == Judgement(100.0, 100.0, 0.0)


def test_table(comparison: Comparison) -> None:
    lines = comparison.markdown().splitlines()
    assert lines[0] == "| | top-1 | same answer as float | nats | ms, median | least | time / W8A8 | MB |"
    assert lines[2] == "| **W8A8** | 80.6 % | 90.6 % | 0.0123 | 6.0 | 5.0 | 1.00 | 6.00 |"
    assert lines[5] == "| XNNPACK int8 dynamic | 80.8 % | 90.8 % | 0.0123 | 13.9 | 12.9 | 2.32 | 6.20 |"
    assert lines[7].startswith("| XNNPACK int8 static (destroyed) | 0.2 %")
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert sum("(destroyed)" in line for line in lines) == 2  # the row, and what it means
    for part in (
        "float 80.6 %",
        "128 images",
        "500 others",
        "error 1.8 points",
        "Some CPU",
        "2026-01-02",
        "torch 2.13",
    ):
        assert part in comparison.markdown()


def test_table_without_ours(comparison: Comparison) -> None:
    peers = dataclasses.replace(comparison, rows=comparison.rows[3:5])
    lines = [line for line in peers.markdown().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and "time /" not in lines[0]
    assert "(destroyed)" not in peers.markdown()


def test_json_is_read_as_it_was_written(comparison: Comparison, tmp_path) -> None:
    comparison.write(tmp_path / "compare.json")
    assert Comparison.read(tmp_path / "compare.json") == comparison


def test_section_of_a_page(tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- begin compare -->\nold\n<!-- end compare -->\nafter\n")
    for text in ("one\n", "two\n"):  # again and again
        replace_section(page, "compare", text)
        assert page.read_text() == f"before\n<!-- begin compare -->\n\n{text}\n<!-- end compare -->\nafter\n"
    page.write_text("nothing here\n")
    with pytest.raises(PackQViTError, match="has no lines <!-- begin compare -->"):
        replace_section(page, "compare", "text")
    assert page.read_text() == "nothing here\n"


def test_picture_shows_every_program_and_no_label_covers_another(comparison, tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    boxes, bubbles, place = [], [], comparison_picture.place

    def recorded(width, height, spot, taken, whole, gap):
        left, bottom, distance = place(width, height, spot, taken, whole, gap)
        boxes.append((left, bottom, left + width, bottom + height))
        bubbles.append(spot)
        return left, bottom, distance

    monkeypatch.setattr(comparison_picture, "place", recorded)
    comparison_picture.draw(comparison, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").stat().st_size > 10_000
    assert len(boxes) == len(comparison.rows)
    for one, other in combinations(boxes, 2):
        assert not comparison_picture._meet(one, other)
    for box in boxes:
        for x, y, radius in bubbles:
            assert not comparison_picture._meet(box, (x - radius, y - radius, x + radius, y + radius))


def test_a_label_goes_right_of_its_bubble_unless_that_is_taken() -> None:
    whole, bubble = (0.0, 0.0, 200.0, 100.0), (20.0, 50.0, 5.0)
    own = (15.0, 45.0, 25.0, 55.0)
    assert comparison_picture.place(40, 10, bubble, [own], whole, 2) == (27.0, 45.0, 2)
    taken = (26.0, 40.0, 60.0, 60.0)
    left, bottom, _ = comparison_picture.place(40, 10, bubble, [own, taken], whole, 2)
    box = (left, bottom, left + 40, bottom + 10)
    assert not comparison_picture._meet(box, taken) and not comparison_picture._meet(box, own)
    assert comparison_picture.place(40, 10, bubble, [whole], whole, 2) == (27.0, 45.0, 2)  # no room at all
