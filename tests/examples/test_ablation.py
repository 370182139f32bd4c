"""The command that turns parts off, on a micro model, and what it exchanges."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional

import ablation
from packqvit_delegate import export
from packqvit_delegate.models import load
from packqvit_delegate.passes.integer.context import RULES
from packqvit_delegate.preparation import make_pair

ARGUMENTS = "--weights w.safetensors --calibration photos --evaluate photos --calibration-images 8 --processes 1"


@pytest.fixture
def run(tmp_path: Path, micro_model, invoke):
    micro_model("deit_tiny", 4, depth=1)
    (tmp_path / "photos").mkdir()
    rows = ["file,label"]
    for i in range(12):
        Image.effect_noise((40, 40), 60 + 10 * i).convert("RGB").save(tmp_path / "photos" / f"{i:02}.png")
        rows.append(f"{i:02}.png,{i % 4}")
    (tmp_path / "photos" / "labels.csv").write_text("\n".join(rows) + "\n")

    return lambda arguments, code=0: invoke(ablation.app, f"{ARGUMENTS} {arguments}", code)


def test_every_row_is_measured(run, tmp_path: Path) -> None:
    rules = dict(RULES)
    run("--preset w4a4 --csv rows.csv")
    assert rules == RULES  # what was exchanged is back
    rows = {row["row"]: row for row in csv.DictReader((tmp_path / "rows.csv").open())}
    assert list(rows) == [variant.name for variant in ablation.VARIANTS if "w4a4" in variant.presets]
    in_float = {name: row["outside"] for name, row in rows.items() if row["outside"]}
    assert in_float == {
        "softmax in float": "aten::_softmax",
        "LayerNorm in float": "aten::native_layer_norm",
        "GELU in float": "aten::gelu",
    }
    assert all(float(row["divergence"]) > 0 for row in rows.values())
    for name, row in rows.items():
        if name != "as preset":
            won, lost = int(row["won"]), int(row["lost"])
            change = float(row["top1"]) - float(rows["as preset"]["top1"])
            assert change == pytest.approx(100 * (won - lost) / 12, abs=0.11)


def test_rows_share_a_calibration_and_are_the_programs_of_export(run, tmp_path: Path, monkeypatch) -> None:
    loaded = load("deit_tiny", str(tmp_path / "w.safetensors"))
    size, preprocessing = loaded.preprocessing.size, loaded.preprocessing
    images = torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = export(
        loaded.module, (images[:1],), [images], input_normalization=(preprocessing.mean, preprocessing.std)
    ).buffer
    calls = []
    monkeypatch.setattr(ablation, "make_pair", lambda *args: calls.append(args) or make_pair(*args))
    maker = ablation.Maker(loaded, images, "w4a4")
    softmax = next(variant for variant in ablation.VARIANTS if variant.name == "softmax of plain 2^x")
    nearest = next(variant for variant in ablation.VARIANTS if variant.name == "weights to nearest")
    assert maker.make(ablation.VARIANTS[0]).buffer == expected
    assert maker.make(softmax).buffer != expected
    assert maker.make(ablation.VARIANTS[0]).buffer == expected
    assert len(calls) == 1
    maker.make(nearest)
    assert len(calls) == 2


def test_rows_can_be_chosen(run) -> None:
    output = run("--preset w8a8 --only log2")
    assert "probabilities log2" in output and "clipping" not in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--only nonsense", "no row is called like 'nonsense'"),
        ("--preset w2a2", "no preset 'w2a2'"),
        ("--csv gone/rows.csv", "there is no folder gone"),
    ],
)
def test_bad_arguments_are_refused(run, arguments: str, reason: str) -> None:
    assert reason in run(arguments, code=1)


@pytest.mark.parametrize(
    ("function", "error"), [(ablation.i_bert_gelu, 0.02), (ablation.sigmoid_gelu, 0.021), (functional.hardswish, 0.3)]
)
def test_the_other_functions_are_close_to_gelu(function, error: float) -> None:
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    worst = float((function(x) - functional.gelu(x)).abs().max())
    assert error / 2 < worst < error


@pytest.mark.parametrize(("won", "lost", "p"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (8, 2, 0.109375)])
def test_the_sign_test(won: int, lost: int, p: float) -> None:
    assert ablation.sign_test(won, lost) == pytest.approx(p)
