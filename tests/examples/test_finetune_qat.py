"""From a folder of images to a trained program, in one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import finetune_qat
from packqvit_delegate import runtime

MICRO = """
from dataclasses import replace
import finetune_qat
from packqvit_delegate.models import ZOO, ViTConfig
ZOO["vit_tiny"] = replace(ZOO["vit_tiny"], config={config!r})
finetune_qat.app()
"""
"""The command with a micro model in the place of ViT-Tiny, for processes of their own."""
QUICK = "--weights w.safetensors --data train --validation val --float-steps 4 --steps 4 --batch 4 --every 2"
QUICK += " --processes 1"  # of its own: a second one would import everything again


@pytest.fixture
def run(tmp_path: Path, micro_model, invoke):
    (tmp_path / "micro.py").write_text(MICRO.format(config=micro_model("vit_tiny", 10)))
    for folder, count in (("train", 8), ("val", 5)):
        lines = ["file,label"]
        for label in (3, 7):
            (tmp_path / folder / f"class{label}").mkdir(parents=True)
            for i in range(count):
                name = f"class{label}/{i}.png"
                Image.effect_noise((40, 40), 20 * label + i).convert("RGB").save(tmp_path / folder / name)
                lines.append(f"{name},{label}")
        (tmp_path / folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "other").mkdir()
    Image.effect_noise((40, 40), 9).convert("RGB").save(tmp_path / "other" / "a.png")

    return lambda arguments, code=0: invoke(finetune_qat.app, arguments, code)


def test_it_trains_exports_evaluates_and_draws(run, tmp_path: Path) -> None:
    # Ten images to judge are more than one process takes at once: the second has work too.
    output = run(f"{QUICK} --processes 2 --output a.pte --plot a.png --checkpoint a.pt --float-weights f.pt")
    assert "top-1 float" in output and "top-1 integer" in output and "/ 10)" in output
    assert runtime.load(tmp_path / "a.pte").run(torch.zeros(1, 3, 32, 32))[0].shape == (1, 2)
    assert (tmp_path / "a.png").stat().st_size > 0
    run(f"{QUICK} --output b.pte --checkpoint a.pt --float-weights f.pt")  # both are there: nothing is trained again
    assert (tmp_path / "b.pte").read_bytes() == (tmp_path / "a.pte").read_bytes()


def test_behind_torchrun(run, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "micro.py"]
    examples = str(Path(finetune_qat.__file__).parent)
    result = subprocess.run(
        [*command, *QUICK.split(), "--output", "a.pte", "--float-weights", "f.pt"],
        env=os.environ | {"PYTHONPATH": examples, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("top-1 integer") == 1  # the first process speaks for both
    assert runtime.load(tmp_path / "a.pte").run(torch.zeros(1, 3, 32, 32))[0].shape == (1, 2)


def test_class_folders_get_a_new_classifier(run, tmp_path: Path) -> None:
    for folder in ("train", "val"):
        (tmp_path / folder / "labels.csv").unlink()
    options = "--residual int8 --outlier-weight 0.1 --no-integer-functions --no-learn-ranges --label-weight 1"
    run(f"{QUICK} {options} --bits 8 --batch-sizes 1,3 --output c.pte")
    assert runtime.load(tmp_path / "c.pte").run(torch.zeros(1, 3, 32, 32))[0].shape == (1, 2)
    assert runtime.load(tmp_path / "c.pte", "forward_3").run(torch.zeros(3, 3, 32, 32))[0].shape == (3, 2)


def test_class_folders_that_are_classes_of_the_model(run, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"class{i}\n" for i in range(10)))
    (tmp_path / "train" / "labels.csv").rename(tmp_path / "labels.csv")
    (tmp_path / "val" / "labels.csv").unlink()
    run(f"{QUICK} --labels names.txt --output a.pte --float-weights a.pt")
    (tmp_path / "labels.csv").rename(tmp_path / "train" / "labels.csv")  # labels 3 and 7, and nothing of the names
    run(f"{QUICK} --labels names.txt --output b.pte --float-weights b.pt")
    assert (tmp_path / "a.pte").read_bytes() == (tmp_path / "b.pte").read_bytes()


def test_a_model_of_hugging_face(run, tmp_path: Path) -> None:
    import torchvision_stub  # noqa: F401  transformers' ViT does not import beside a torchvision that does not

    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96
    )
    config.num_labels = 10
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "hf")
    quick = QUICK.replace("--weights w.safetensors", "--model hf:hf")
    assert "top-1 integer" in run(f"{quick} --output a.pte --no-integer-functions")
    assert runtime.load(tmp_path / "a.pte").run(torch.zeros(1, 3, 32, 32))[0].shape == (1, 2)


def test_labels_that_mean_nothing_to_the_classifier(run, tmp_path: Path) -> None:
    (tmp_path / "val" / "labels.csv").unlink()
    assert "only one has a labels.csv: say with --labels" in run(QUICK, code=1)
    no_labels = "--data other --validation val --float-steps 0 --label-weight 0"
    assert "val has class folders, other no labels: say with --labels" in run(no_labels, code=1)
    (tmp_path / "train" / "labels.csv").unlink()
    output = run(QUICK.replace("--float-steps 4", "--float-steps 0"), code=1)
    assert "the classifier is a new one, and --float-steps 0 does not train it: say with --labels" in output


def test_images_without_labels_and_the_features_of_the_float_model(run, tmp_path: Path) -> None:
    (tmp_path / "other" / "b.png").write_bytes((tmp_path / "other" / "a.png").read_bytes())
    quick = QUICK.replace("--data train", "--data other").replace("--float-steps 4", "--float-steps 0")
    options = "--label-weight 0 --features 10 --rotation --smallest-crop 0.3 --batch 2 --output d.pte"
    options += " --no-integer-functions --unrounded 0.5 --mixup 0.5 --cutmix 0.5 --view-size 48"
    output = run(f"{quick} {options}")
    assert "divergence" in output
    assert runtime.load(tmp_path / "d.pte").run(torch.zeros(1, 3, 32, 32))[0].shape == (1, 10)  # all classes stay
    (tmp_path / "val" / "labels.csv").write_text("file,label\nclass3/0.png,10\n")
    assert "val has the label 10, the model has 10 classes" in run(f"{quick} {options}", code=1)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("--data other --validation val", "other has no labels"),
        ("--data train --validation val --label-weight 1 --features 1", "features are learned from a teacher"),
        ("--data train --validation val --cutmix 0.5", "mixup and cutmix are for training without labels"),
        ("--data train --validation val --unrounded 0.5", "--unrounded needs --no-integer-functions"),
        ("--data gone --validation val", "gone is not a folder"),
        ("--data train --validation other", "other has no labels"),
        ("--data train --validation val --bits 5", "bits is 5"),
        ("--data train --validation val --model no_such", "built-in model (deit_tiny"),
        ("--data train --validation val --output gone/a.pte", "there is no folder gone for a.pte"),
        ("--data train --validation val --checkpoint val", "val is a folder: give the name of a file"),
        ("--data train --validation val --batch-sizes 4", "must begin with 1, for `forward`"),
        ("--data train --validation val --device tpu", "--device tpu: give cpu or cuda"),
        ("--data train --validation val --plot gone/a.png", "there is no folder gone for a.png"),
        ("--data train --validation val --plot a.nothing", "cannot write the plot a.nothing: its name has to end in"),
        ("--data train --validation val --weights random", "vit_tiny has no trained classifier to begin with"),
        ("--data train --validation val --weights w.safetensors --batch 17", "16 images, but one step takes 17"),
    ],
)
def test_it_refuses(run, arguments: str, reason: str) -> None:
    assert reason in run(arguments, code=1)


def test_labels_that_training_never_sees(run, tmp_path: Path) -> None:
    (tmp_path / "val" / "labels.csv").write_text("file,label\nclass3/0.png,4\n")
    assert "val has the label 4, which no image of train has" in run(QUICK, code=1)


def test_labels_beyond_the_models_classes(run, tmp_path: Path) -> None:
    (tmp_path / "train" / "labels.csv").write_text("file,label\nclass3/0.png,11\n")
    (tmp_path / "val" / "labels.csv").write_text("file,label\nclass3/0.png,11\n")
    assert "train has the label 11, the model has 10 classes" in run(QUICK, code=1)
