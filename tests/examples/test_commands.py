"""Bad arguments of the commands: one clear message, before any heavy work."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import embeddings
import evaluate
import export_deit
from models import MICRO, images, plain_model
from packqvit_delegate import PackQViTError, api, evaluation, models
from packqvit_delegate.data import ImageFolder, Preprocessing
from packqvit_delegate.models import ZOO, LoadedModel, VisionTransformer, ViTConfig
from programs import micro_program


def plain_program(path):
    """A program that says nothing of itself, as older versions wrote them."""
    program = micro_program("W8A8")
    api.lower(program.integer_module, (images(1),)).save(path)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        for folder in ("plain", "labelled"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.effect_noise((40, 40), 80).convert("RGB").save(tmp_path / folder / name)
    (tmp_path / "labelled" / "labels.csv").write_text("file,label\na.png,0\nb.png,11\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "photo.jpg").write_bytes(b"not a picture")
    (tmp_path / "program.pte").write_bytes(b"not a program")
    (tmp_path / "weights.pt").write_bytes(b"not weights")
    (tmp_path / "names.txt").write_text("tench\ngoldfish\n")
    plain_program(tmp_path / "old.pte")

    def run(app, arguments: str):
        result = CliRunner().invoke(app, arguments.split())
        return result.exit_code, " ".join(result.output.replace("│", " ").split()), result

    return run


@pytest.fixture
def no_export(monkeypatch):
    def export(*args, **kwargs):
        raise AssertionError("heavy work was begun")

    monkeypatch.setattr(api, "export", export)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--bits 5 --weights random", "bits is 5, but only 4 and 8 bits are supported"),
        ("--bits 0 --weights random", "bits is 0, but only 4 and 8"),
        ("--bits 4 --activation-bits 16 --weights random", "activation_bits is 16, but only 4 and 8"),
        ("--bits 8 --activation-bits 4 --weights random", "8-bit weights with 4-bit activations gain nothing"),
        ("--mixed-precision gone.json --weights random", "cannot read the mixed precision gone.json"),
        ("--mixed-precision gone.json --budget 15", "give one of them"),
        ("--weights gone.pt --calibration plain", "there is no weight file gone.pt"),
        ("--weights weights.pt", "trained weights need --calibration FOLDER"),
        ("--weights weights.pt --calibration plain", "weights.pt is not a readable weight file"),
        ("--weights random --calibration gone", "gone is not a folder"),
        ("--weights random --calibration empty", "empty has no images"),
        ("--weights random --calibration broken", "cannot read the image broken/photo.jpg"),
        ("--weights random --evaluate plain", "plain has no labels"),
        ("--weights random --evaluate empty", "empty has no images"),
        ("--weights random --evaluate labelled --labels gone.txt", "cannot read the class names in gone.txt"),
        ("--weights random --output gone/model.pte", "there is no folder gone"),
        ("--weights random --model no_such_model", "no_such_model is"),
        ("--weights random --tune", "--tune needs --calibration FOLDER"),
        ("--bits 4", "trained weights need --calibration FOLDER"),
        ("--weights random --labels gone.txt", "cannot read the class names in gone.txt"),
        ("--weights random --labels names.txt", "--labels has 2 names, the model 1000 classes"),
        ("--weights random --log gone/log.txt", "there is no folder gone for log.txt"),
        ("--weights random --calibration plain --tune --tune-device tpu9", "cannot tune on the device 'tpu9'"),
    ],
)
def test_export_refuses(run, no_export, arguments, reason):
    code, output, _ = run(export_deit.app, arguments)
    assert code == 1
    assert reason in output and "error:" in output


@pytest.mark.parametrize(
    "arguments",
    [
        "--bits four",
        "--residual int4",
        "--probabilities sqrt",
        "--calibration-images 0",
        "--processes 0",
        "--budget -1",
    ],
)
def test_export_refuses_by_usage(run, no_export, arguments):
    code, output, _ = run(export_deit.app, arguments)
    assert code == 2
    assert arguments.split()[0] in output


@pytest.mark.parametrize(("options", "images"), [("", 128), ("--tune", 512), ("--tune --calibration-images 64", 64)])
def test_tuning_begins_with_more_images(run, no_export, caplog, options, images):
    code, _, _ = run(export_deit.app, f"--weights random --calibration plain --output gone/m.pte {options}")
    assert code == 1
    assert f"plain has 2 images, {images} were asked for" in caplog.text


def test_labels_beyond_the_classes(run, no_export, tmp_path):
    torch.manual_seed(0)
    save_file(VisionTransformer(ViTConfig(image_size=32, num_classes=10)).state_dict(), tmp_path / "ten.safetensors")
    code, output, _ = run(
        export_deit.app, "--weights ten.safetensors --calibration plain --calibration-images 2 --evaluate labelled"
    )
    assert code == 1
    assert "labelled has the label 11, the model has 10 classes" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("gone.pte --data labelled --model deit_tiny", "there is no file gone.pte"),
        ("old.pte", "give one folder of images"),
        ("old.pte labelled --data labelled", "give one folder of images"),
        ("old.pte labelled", "does not say how images are normalised: give either --model, or --mean and --std"),
        ("old.pte --data labelled --mean 0.5,0.5,0.5", "either --model, or --mean and --std"),
        ("old.pte --data labelled --model resnet50", "resnet50 is none of deit_tiny"),
        ("old.pte --data plain --model deit_tiny", "plain has no labels"),
        ("old.pte --data gone --model deit_tiny", "gone is not a folder"),
        ("old.pte --data labelled --mean half --std 0.5,0.5,0.5", "--mean 'half' must be three numbers"),
        ("old.pte --data labelled --mean 0.5 --std 0.5", "must have three values each"),
        ("program.pte --data labelled --model deit_tiny", "cannot load the program"),
        ("old.pte --data labelled --model deit_tiny --weights gone.pth", "there is no weight file gone.pth"),
        ("old.pte --data labelled --mean 0,0,0 --std 1,1,1 --weights weights.pt", "--weights needs --model"),
    ],
)
def test_evaluate_refuses(run, arguments, reason):
    code, output, result = run(evaluate.app, arguments)
    assert code == 1, result.exception
    assert reason in output


def test_evaluate_refuses_labels_beyond_the_classes(run, tmp_path, monkeypatch):
    """Of a program before its first image, and of a float model after its first batch."""
    folder, preprocessing = ImageFolder.open(tmp_path / "labelled"), Preprocessing(MICRO["image"])
    monkeypatch.setattr(evaluation.runtime, "load", lambda path: SimpleNamespace(outputs=lambda: [torch.zeros(1, 10)]))
    reason = "labelled has the label 11, the model has 10 classes"
    with pytest.raises(PackQViTError, match=reason):
        evaluation.predict_program(tmp_path / "program.pte", folder, preprocessing, 1)
    with pytest.raises(PackQViTError, match=reason):
        evaluation.predict_float(plain_model(), folder, preprocessing)


def test_bytes_and_best_classes(run, tmp_path, monkeypatch):
    """--input uint8 --top-k through export, evaluation and the program's own description."""
    config = ViTConfig(image_size=32, patch_size=8, num_classes=12, dim=48, depth=1)
    monkeypatch.setitem(ZOO, "deit_tiny", replace(ZOO["deit_tiny"], config=config))
    torch.manual_seed(0)
    save_file(VisionTransformer(config).state_dict(), tmp_path / "w.safetensors")
    arguments = "--weights w.safetensors --calibration plain --calibration-images 2 --processes 1 --bits 8"
    found = []
    for options in ("", "--input uint8 --top-k 3", "--input uint8 --layout chw"):
        code, output, result = run(export_deit.app, f"{arguments} --evaluate labelled --output m.pte {options}")
        assert code == 0, result.exception
        found.append(output)
        code, evaluated, result = run(evaluate.app, "m.pte labelled --processes 1")  # the file says the rest
        assert code == 0, result.exception
        top1 = re.search(r"top-1 integer (.*?\))", output)
        assert top1 is not None and top1[1] in evaluated
        has_logits = "--top-k" not in options
        divergence = re.search(r"divergence (\d\.\d{4}) nats", output)
        assert (divergence is not None) == has_logits
    code, evaluated, result = run(evaluate.app, "m.pte --data labelled --weights w.safetensors --processes 1")
    assert code == 0, result.exception
    assert divergence is not None and f"divergence {divergence[1]} nats" in evaluated
    assert 0 <= float(divergence[1]) < 0.1  # 8 bits
    code, evaluated, result = run(evaluate.app, "m.pte labelled --model vit_tiny")
    assert code == 1 and "--model vit_tiny contradicts m.pte, which was made of deit_tiny" in evaluated
    code, evaluated, result = run(evaluate.app, "m.pte labelled --mean 0.5,0.5,0.5")
    assert code == 1 and "--mean (0.5, 0.5, 0.5) contradicts m.pte, which says (0.485, 0.456, 0.406)" in evaluated
    assert "float32 [1, 3, 32, 32]" in found[0]
    assert "uint8 [1, 32, 32, 3]" in found[1]
    assert "uint8 [1, 3, 32, 32]" in found[2]


def test_a_fallback(run, tmp_path, monkeypatch):
    """--fallback hands what stays in float to XNNPACK, and the table counts its calls."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), plain_model()).eval()
    loaded = LoadedModel("hybrid", model, Preprocessing(MICRO["image"]), "random", random=True)
    monkeypatch.setattr(models, "load", lambda name, weights, **_: loaded)
    arguments = "--weights random --rounding nearest --bits 8 --output m.pte"
    code, output, result = run(export_deit.app, f"{arguments} --fallback xnnpack")
    assert code == 0, result.exception
    assert "calls of XnnpackBackend 1 (2 operators in float)" in output
    assert re.search(r"delegate calls 1 .*outside the delegates nothing", output)


def test_too_many_best_classes(run, no_export, tmp_path):
    code, output, _ = run(export_deit.app, "--weights random --top-k 0")
    assert code == 2 and "--top-k" in output


def test_features_are_judged_without_classes(run, tmp_path, monkeypatch):
    """--features through export, evaluation by neighbours, and the command that judges a program alone."""
    config = ViTConfig(image_size=32, patch_size=8, num_classes=12, depth=2)
    monkeypatch.setitem(ZOO, "deit_tiny", replace(ZOO["deit_tiny"], config=config))
    torch.manual_seed(0)
    save_file(VisionTransformer(config).state_dict(), tmp_path / "w.safetensors")
    arguments = "--weights w.safetensors --calibration plain --calibration-images 2 --processes 1 --bits 8"
    code, output, result = run(
        export_deit.app, f"{arguments} --features --evaluate labelled --output m.pte --report m.html"
    )
    assert code == 0, result.exception
    assert "signal to noise" in output and "delegate calls" in output
    page = (tmp_path / "m.html").read_text()
    assert "same nearest neighbour" in page and "Cosine to the float model" in page and "Not evaluated" not in page
    judge = "m.pte --data {} --weights w.safetensors --processes 1 --neighbours 1"
    code, output, result = run(embeddings.app, judge.format("labelled --gallery labelled"))
    assert code == 0, result.exception
    cosine = re.search(r"cosine to float (\d\.\d{4})", output)
    assert cosine is not None and float(cosine[1]) > 0.98
    assert "1-NN top-1 float 100.00 %" in output and "same nearest neighbour" in output
    code, output, result = run(embeddings.app, judge.format("plain"))
    assert code == 0, result.exception
    assert "same nearest neighbour" in output and "top-1" not in output
    code, output, _ = run(export_deit.app, f"{arguments} --output classes.pte")
    code, output, _ = run(embeddings.app, judge.format("plain").replace("m.pte", "classes.pte"))
    assert code == 1 and "export the model without its classifier (--features)" in output
    code, output, _ = run(export_deit.app, f"{arguments} --features --top-k 3")
    assert code == 1 and "give one of them" in output
