"""From the command's report and mix to a program with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import export_deit
import sensitivity
from packqvit_delegate.cli.console import console

MODEL = "--weights w.safetensors --calibration photos"


@pytest.fixture
def run(tmp_path: Path, micro_model, invoke):
    micro_model("deit_tiny", 10)
    (tmp_path / "photos").mkdir()
    for i in range(12):
        Image.effect_noise((40, 40), 60 + 10 * i).convert("RGB").save(tmp_path / "photos" / f"{i:02}.png")

    return invoke


def test_a_mix_is_found_written_and_applied(run, tmp_path: Path) -> None:
    output = run(
        sensitivity.app,
        f"{MODEL} --calibration-images 8 --images 4 --budget 15 --wide-macs 50 --json r.json --plot r.png",
    )
    assert "with the mix" in output and "most use for its cost first" in output
    mix = json.loads((tmp_path / "mixed_precision.json").read_text())
    assert mix["overrides"]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["images"] == 4 and report["blocks"] == 2
    assert (tmp_path / "r.png").stat().st_size > 0

    arguments = f"{MODEL} --calibration-images 8"
    run(export_deit.app, f"{arguments} --output uniform.pte")
    run(export_deit.app, f"{arguments} --output mixed.pte --mixed-precision mixed_precision.json")
    run(export_deit.app, f"{arguments} --output budget.pte --budget 15 --wide-macs 50")
    uniform, mixed, budget = ((tmp_path / f"{name}.pte").read_bytes() for name in ("uniform", "mixed", "budget"))
    assert len(mixed) <= 1.15 * len(uniform) and mixed != uniform
    assert budget == mixed  # the same images, so the same mix


def test_towers_are_told_by_their_embeddings(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 200)  # in which no heading of a table is broken over lines
    output = run(sensitivity.app, f"{MODEL} --features --calibration-images 8 --images 4 --budget 15 --json r.json")
    assert "cosine to float 0." in output and "nats" not in output
    assert "loss alone, of the embeddings' variance" in output
    assert 0 < json.loads((tmp_path / "r.json").read_text())["cosine"] < 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--calibration gone", "gone is not a folder"),
        ("--calibration photos --bits 5", "bits is 5"),
        ("--calibration photos --mixed-precision gone.json", "cannot read the mixed precision gone.json"),
        ("--calibration photos --plot gone/r.png", "there is no folder gone for r.png"),
        ("--calibration photos --json gone/r.json", "there is no folder gone for r.json"),
        ("--calibration photos --bits 8 --weights w.safetensors --budget 15", "no layer has 4 bits"),
    ],
)
def test_it_refuses(run, arguments: str, reason: str) -> None:
    assert reason in run(sensitivity.app, arguments, code=1)
