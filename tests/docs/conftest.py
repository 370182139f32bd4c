"""A place where the commands of the pages find what they name: micro models, small pictures, and a `python` at hand."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from models import randomize
from packqvit_delegate.models import ZOO, VisionTransformer, ViTConfig

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ViTConfig(image_size=224, patch_size=32, num_classes=10, dim=48, depth=1)
NAMES = ("n01440764", "n02102040")

SMALLER = {
    "export_deit": ("--calibration-images 4 --tune-images 24 --tune-steps 2 --processes 1", ""),
    "evaluate": ("--processes 1", ""),
    "finetune_qat": (
        "--steps 2 --batch 4 --calibration-images 4 --check-images 4 --every 2 --processes 1 --device cpu",
        "--float-steps 2",
    ),
    "sensitivity": ("--calibration-images 4 --images 2", ""),
}
"""What is put behind the options that a page gives, where the last one counts; and before them."""


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a repository with everything beside it that the pages name; it is the working directory."""
    root = tmp_path_factory.mktemp("place") / "repository"
    root.mkdir()
    (root / "examples").symlink_to(ROOT / "examples")
    data = root.parent / "shared" / "data"
    weights = randomize(VisionTransformer(CONFIG)).state_dict()
    for folder in ("photos/train", "photos/val", "imagenet/val"):
        _draw_classes(root / folder)
    for folder in ("imagenette/train", "imagenette/val", "ilsvrc_val_500"):
        _draw(data / folder, 12, labels=range(10))
    _draw(data / "imagenet_one_per_class_1000", 24)
    for path in ("deit_tiny.safetensors", "vit_tiny.safetensors", data / "vit_tiny_patch16_224.in1k.safetensors"):
        save_file(weights, root / path)
    (root / "class_names.txt").write_text("".join(f"class {i}\n" for i in range(CONFIG.num_classes)))
    (root / "image.bin").write_bytes(torch.zeros(1, 3, 224, 224).numpy().tobytes())
    _picture(0).save(root / "photo.ppm")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("deit_tiny", "vit_tiny"):
            patch.setitem(ZOO, name, replace(ZOO[name], config=CONFIG))
        yield root


def _picture(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")[0]
    return Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())


def _draw(folder: Path, count: int, labels: range | None = None) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        _picture(i).save(folder / f"{i}.png")
    if labels is not None:
        lines = [f"{i}.png,{labels[i % len(labels)]}\n" for i in range(count)]
        (folder / "labels.csv").write_text("file,label\n" + "".join(lines))


def _draw_classes(folder: Path) -> None:
    for name in NAMES:
        _draw(folder / name, 4)


STUB = """#!{python} -SE
import json, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    connection.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    answer = json.load(connection.makefile())
sys.stdout.write(answer["output"])
sys.exit(answer["code"])
"""


def run_shell(script: str, place: Path, bin_folder: Path) -> tuple[int, str]:
    """Runs commands in bash; each `python` among them in this process, which has imported everything already.

    Returns:
        The exit code, and what was printed.
    """
    address = str(bin_folder / "s")
    stub = bin_folder / "python"
    stub.write_text(STUB.format(python=sys.executable, address=address))
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    log = bin_folder / "log"
    with socket.socket(socket.AF_UNIX) as listener, log.open("w") as output:
        listener.bind(address)
        listener.listen()
        listener.settimeout(0.1)
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-xc", script], cwd=place, env=environment, stdout=output, stderr=output
        )
        while process.poll() is None:
            with contextlib.suppress(TimeoutError):
                connection = listener.accept()[0]
                with connection:
                    code, text = _python(json.loads(connection.makefile().readline()))
                    connection.sendall(json.dumps({"code": code, "output": text}).encode())
    return process.returncode, log.read_text()


def _python(arguments: list[str]) -> tuple[int, str]:
    """What `python` with these arguments does, for scripts of examples/ and code."""
    if arguments[0] == "-c":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(arguments[1], {})
        return 0, printed.getvalue()
    script = Path(arguments[0])
    assert script.parent == Path("examples") and script.is_file(), arguments
    behind, before = SMALLER[script.stem]
    app = importlib.import_module(script.stem).app
    result = CliRunner().invoke(app, [*before.split(), *arguments[1:], *behind.split()])
    return result.exit_code, result.output + (f"{result.exception!r}\n" if result.exception else "")
