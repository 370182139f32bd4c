"""`make compare` on a micro ViT: everything but the size is as it is."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from benchmarks.compare import app
from benchmarks.comparison import Comparison
from models import randomize
from packqvit_delegate.data import Preprocessing, synthetic_images
from packqvit_delegate.models import ZOO, ViTConfig
from packqvit_delegate.models.zoo import Entry

CONFIG = ViTConfig(image_size=32, patch_size=8, num_classes=10, dim=64, depth=2, heads=2)
CONTESTANTS = ["W8A8", "XNNPACK int8 dynamic"]


def write_images(folder: Path, seed: int, count: int = 6) -> None:
    folder.mkdir()
    for index, pixels in enumerate(synthetic_images(count, 32, seed)):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{index}.png")


@pytest.fixture
def arguments(tmp_path, monkeypatch) -> dict[str, str]:
    """Options of the command, as the Makefile gives them."""
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(ZOO, "micro", Entry(CONFIG, Preprocessing(32), "nowhere/micro"))
    save_file(randomize(CONFIG.build()).state_dict(), tmp_path / "micro.safetensors")
    write_images(tmp_path / "calibration", 0)
    write_images(tmp_path / "images", 1)
    with open(tmp_path / "images" / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((f"{i}.png", i) for i in range(6))])
    return {
        "--model": "micro",
        "--weights": str(tmp_path / "micro.safetensors"),
        "--calibration": str(tmp_path / "calibration"),
        "--images": str(tmp_path / "images"),
        "--output": str(tmp_path / "out"),
        "--calibration-images": "4",
        "--rounds": "2",
        "--processes": "1",
    }


def run(arguments: dict[str, str], *more: str) -> tuple[int, str]:
    """Exit code, and what was said with its lines joined."""
    options = [text for pair in arguments.items() for text in pair]
    result = CliRunner().invoke(app, [*options, *more])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def test_makes_evaluates_times_and_publishes(arguments, tmp_path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for page in (docs / "compare.md", tmp_path / "README.md"):
        page.write_text("head\n<!-- begin compare -->\n<!-- end compare -->\n")
    chosen = [text for name in CONTESTANTS for text in ("--contestant", name)]
    code, said = run(arguments, *chosen, "--publish", str(docs))
    assert code == 0, said
    comparison = Comparison.read(tmp_path / "out" / "compare.json")
    assert [row.name for row in comparison.rows] == CONTESTANTS
    assert (comparison.images, comparison.calibration_images, comparison.model) == (6, 4, "micro")
    for row in comparison.rows:
        assert row.judgement.same >= 50 and 0 < row.judgement.nats < 1 and 0 < row.min_ms <= row.median_ms
        assert row.size > 10_000
    assert (tmp_path / "out" / "compare.png").read_bytes() == (docs / "compare.png").read_bytes()
    table = (tmp_path / "out" / "compare.md").read_text()
    assert table in (docs / "compare.md").read_text() and table in (tmp_path / "README.md").read_text()

    programs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "micro").iterdir()}
    code, said = run(arguments, *chosen, "--keep")
    assert code == 0, said
    assert "exporting" not in said and "evaluating" not in said
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "micro").iterdir()} == programs
    again = Comparison.read(tmp_path / "out" / "compare.json")
    assert [row.judgement for row in again.rows] == [row.judgement for row in comparison.rows]


def test_mistakes_are_said_before_any_work(arguments, tmp_path) -> None:
    cases = [
        ({"--weights": str(tmp_path / "none.pth")}, "there is no weight file"),
        ({"--images": str(tmp_path / "nowhere")}, "is not a folder"),
        ({"--images": str(tmp_path / "calibration")}, "has no labels"),
        ({"--calibration": str(tmp_path / "images")}, "is to be evaluated, but calibrated with as well"),
        ({"--publish": str(tmp_path / "docs")}, "there is no"),
        ({"--contestant": "TVM"}, "TVM is not one of W8A8"),
    ]
    for change, message in cases:
        code, said = run({**arguments, **change})
        assert code != 0 and message in said, (change, said)
    assert not list(tmp_path.glob("out/micro/*"))


def test_labels_that_the_model_does_not_have(arguments, tmp_path) -> None:
    (tmp_path / "images" / "labels.csv").write_text("file,label\n0.png,10\n")
    code, said = run(arguments)
    assert code == 1 and "has the label 10, the model has 10 classes" in said


def test_a_contestant_asked_for_by_name_has_to_be_installed(arguments, monkeypatch) -> None:
    monkeypatch.setattr("benchmarks.peers.importlib.util.find_spec", lambda name: None)
    code, said = run(arguments, "--contestant", "OpenVINO int8 NNCF")
    assert code == 1 and "OpenVINO int8 NNCF needs onnx onnxscript openvino nncf" in said


def test_json_names_everything_that_it_was_measured_on(arguments, tmp_path) -> None:
    code, said = run(arguments, "--contestant", "XNNPACK fp32", "--count", "3")
    assert code == 0, said
    document = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert document["images"] == 3 and document["cpu"] and document["date"] and document["versions"]["torch"]
    assert document["rows"][0]["judgement"]["same"] == 100.0
