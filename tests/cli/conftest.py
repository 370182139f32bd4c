"""A place with a micro model, pictures and labels, and the command that runs in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from models import randomize
from packqvit_delegate.cli.app import app
from packqvit_delegate.models import ZOO, VisionTransformer, ViTConfig

CONFIG = ViTConfig(image_size=32, patch_size=8, num_classes=4, dim=48, depth=1)
Packqvit = Callable[..., str]


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory: photos, labelled, names.txt, w.safetensors, and vit_tiny as a micro model."""
    root = tmp_path_factory.mktemp("place")
    for folder in ("photos", "labelled", "empty"):
        (root / folder).mkdir()
    for i in range(4):
        picture(i).save(root / "photos" / f"{i}.png")
        picture(i).save(root / "labelled" / f"{i}.jpg")
    (root / "labelled" / "labels.csv").write_text("file,label\n" + "".join(f"{i}.jpg,{i}\n" for i in range(4)))
    (root / "names.txt").write_text("cat\ndog\nfish\nbird\n")
    save_file(randomize(VisionTransformer(CONFIG)).state_dict(), root / "w.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setitem(ZOO, "vit_tiny", replace(ZOO["vit_tiny"], config=CONFIG))
        yield root


def packqvit(arguments: str, code: int = 0) -> str:
    """Calls the command, asks for its exit code, and returns what it printed on one line, without tables' lines."""
    result = CliRunner().invoke(app, arguments.split())
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.replace("│", " ").replace("┃", " ").split())


EXPORT = "export --model vit_tiny --weights w.safetensors --calibration photos --calibration-images 4"


@pytest.fixture(scope="module")
def program(place: Path) -> Path:
    """a.pte, with the names of its classes."""
    packqvit(f"{EXPORT} --bits 8 --labels names.txt -o a.pte")
    return place / "a.pte"
