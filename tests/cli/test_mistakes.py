"""Mistakes of a newcomer: each ends in one sentence that says what to do, exit code 1, and nothing half-written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file

from cli.conftest import CONFIG, EXPORT, packqvit, picture
from models import images, plain_model, randomize
from packqvit_delegate import PackQViTError
from packqvit_delegate.files import replacing
from packqvit_delegate.models import VisionTransformer, loading


@pytest.fixture(scope="module", autouse=True)
def mistakes(program: Path, place: Path) -> None:
    for folder in ("words", "videos", "halves"):
        (place / folder).mkdir()
    (place / "words" / "readme.txt").write_text("no picture")
    (place / "videos" / "a.jpg").write_bytes(b"\x00\x00\x00\x20ftypisom" + bytes(200))
    (place / "halves" / "a.jpg").write_bytes((place / "labelled" / "0.jpg").read_bytes()[:300])
    for name, rows in (
        ("named", "0.jpg,cat"),
        ("negative", "0.jpg,-1"),
        ("large", "0.jpg,4"),
        ("fraction", "0.jpg,1.0"),
        ("missing", "gone.jpg,1"),
    ):
        (place / name).mkdir()
        picture(0).save(place / name / "0.jpg")
        (place / name / "labels.csv").write_text(f"file,label\n{rows}\n")
    (place / "column").mkdir()
    picture(0).save(place / "column" / "0.jpg")
    (place / "column" / "labels.csv").write_text("path,class\n0.jpg,1\n")
    (place / "two.txt").write_text("cat\ndog\n")
    content = program.read_bytes()
    (place / "cut.pte").write_bytes(content[: len(content) // 2])
    (place / "foreign.pte").write_bytes(content.replace(b"PackQViTBackend", b"OtherQViBackend"))
    weights = randomize(VisionTransformer(CONFIG)).state_dict()
    save_file({f"encoder.{name}": tensor for name, tensor in weights.items()}, place / "keys.safetensors")
    weights["head.bias"][0] = float("nan")
    save_file(weights, place / "nan.safetensors")
    Image.new("RGB", (3000, 10)).save(place / "long.png")
    _old_program(place / "other_size.pte")


def _old_program(path: Path) -> None:
    """A program without metadata."""
    from packqvit_delegate import QuantizationConfig, api

    x = images(2)
    integer = api.quantize(plain_model(), (x[:1],), x, QuantizationConfig.preset("w8a8"))
    api.lower(integer, (x[:1],)).save(path)


MISTAKES = [
    (f"{EXPORT} --weights gone.safetensors", "there is no weight file gone.safetensors"),
    (f"{EXPORT} --weights keys.safetensors", "keys.safetensors lacks"),
    (f"{EXPORT} --weights nan.safetensors", "head.bias holds NaN"),
    (f"{EXPORT} --weights a.pte", "unknown kind of weight file"),
    (f"{EXPORT} --calibration gone", "gone is not a folder"),
    (f"{EXPORT} --calibration empty", "empty has no images"),
    (f"{EXPORT} --calibration words", "words has no images"),
    (f"{EXPORT} --calibration videos", "cannot read the image videos/a.jpg"),
    (f"{EXPORT} --calibration halves", "cannot read the image halves/a.jpg"),
    (f"{EXPORT} --bits 3", "only 4 and 8 bits are supported"),
    (f"{EXPORT} --batch-sizes 1,four", "must be numbers with commas between, e.g. 1,4"),
    (f"{EXPORT} --batch-sizes 4,1", "must begin with 1, for `forward`, and have each number once"),
    (f"{EXPORT} --batch-sizes 1,4,4", "must begin with 1, for `forward`, and have each number once"),
    (f"{EXPORT} --model vit_huge_typo", "is neither a built-in model"),
    (f"{EXPORT} --labels two.txt", "--labels has 2 names, the model 4 classes"),
    (f"{EXPORT} --evaluate photos", "photos has no labels"),
    (f"{EXPORT} --evaluate large", "large has the label 4, the model has 4 classes"),
    (f"{EXPORT} -o gone/a.pte", "there is no folder gone for a.pte"),
    (f"{EXPORT} --report gone/a.html", "there is no folder gone for a.html"),
    (f"{EXPORT} --report a.txt", "the report a.txt is a web page: its name has to end in .html"),
    (f"{EXPORT} --report a.html -o a.html", "a.html cannot be both"),
    (f"{EXPORT} -o photos", "photos is a folder: give the name of a file"),
    ("export --model vit_tiny --weights w.safetensors", "trained weights need --calibration FOLDER"),
    ("export --model vit_tiny --calibration photos", "no weights for vit_tiny from the hub"),
    ("run gone.pte labelled/0.jpg", "there is no file gone.pte"),
    ("run a.pte gone.jpg", "there is no picture gone.jpg"),
    ("run a.pte videos/a.jpg", "cannot read the image videos/a.jpg"),
    ("run a.pte long.png", "too elongated"),
    ("run w.safetensors labelled/0.jpg", "it seems to be weights (.safetensors)"),
    ("run labelled/0.jpg labelled/0.jpg", "it seems to be a picture"),
    ("run cut.pte labelled/0.jpg", "cut.pte is cut off"),
    ("run foreign.pte labelled/0.jpg", "calls OtherQViBackend, which this ExecuTorch does not have"),
    ("run a.pte labelled/0.jpg --tier sse9", "this CPU has no tier 'sse9'"),
    ("run a.pte labelled/0.jpg --labels two.txt", "two.txt contradicts the class names in the program"),
    ("run other_size.pte labelled/0.jpg", "does not say how images are normalised: give either --model"),
    ("evaluate a.pte labelled --model deit_tiny", "--model deit_tiny contradicts a.pte"),
    ("evaluate a.pte labelled --mean 0,0,0", "contradicts a.pte, which says (0.5, 0.5, 0.5)"),
    ("evaluate a.pte labelled --crop-fraction 0.5", "contradicts a.pte, which says 0.9"),
    ("evaluate a.pte photos", "photos has no labels: add a labels.csv"),
    ("evaluate a.pte named", "expected a file name and a label of 0 or more"),
    ("evaluate a.pte negative", "expected a file name and a label of 0 or more"),
    ("evaluate a.pte fraction", "expected a file name and a label of 0 or more"),
    ("evaluate a.pte large --processes 1", "large has the label 4, the model has 4 classes"),
    ("evaluate a.pte missing", "there is no file missing/gone.jpg"),
    ("evaluate a.pte column", "must begin with the line `file,label`"),
    ("inspect cut.pte", "cut.pte is cut off"),
    ("benchmark names.txt", "it seems to be a text"),
    ("run a.pte labelled/0.jpg --log photos", "photos is a folder"),
]


@pytest.mark.parametrize(("arguments", "reason"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_one_sentence(arguments: str, reason: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(repository: str, file: str) -> str:
        raise ConnectionError("no route")

    monkeypatch.setattr(loading, "_download", unreachable)
    before = sorted(place.rglob("*"))
    output = packqvit(arguments, code=1)
    assert reason in output and output.count("error:") == 1 and "Traceback" not in output
    assert sorted(place.rglob("*")) == before


def test_a_full_disk(place: Path) -> None:
    assert "cannot write /dev/full: No space left on device" in packqvit(f"{EXPORT} --bits 8 -o /dev/full", code=1)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(PackQViTError, match="cannot write .*: No space left on device; it is as it was before"):
        with replacing(tmp_path / "a") as partial:
            partial.write_text("half")
            raise OSError(28, "No space left on device")
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_finished_file_replaces_the_old_one_and_keeps_its_rights(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(0o640)
    (tmp_path / "link").symlink_to("a")
    with replacing(tmp_path / "link") as partial:
        partial.write_text("new")
    assert (tmp_path / "a").read_text() == "new" and (tmp_path / "link").is_symlink()
    assert os.stat(tmp_path / "a").st_mode & 0o777 == 0o640 and len(list(tmp_path.iterdir())) == 2


def test_another_version_of_executorch(monkeypatch: pytest.MonkeyPatch, program: Path) -> None:
    """The native library does not load: what the dynamic linker says, and what to do."""
    from packqvit_delegate.runtime import library

    def load(path: str) -> None:
        raise OSError("undefined symbol: executorch")

    library.load_library.cache_clear()
    try:
        monkeypatch.setattr(library.ctypes, "CDLL", load)
        output = packqvit("run a.pte labelled/0.jpg", code=1)
        assert "a build fits one minor release of ExecuTorch, so install this package again" in output
    finally:
        monkeypatch.undo()
        library.load_library()
