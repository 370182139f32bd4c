"""What a newcomer does: the wheel into an environment of its own, outside of the tree, and the commands there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import executorch
import pytest
from safetensors.torch import save_file

from cli.conftest import CONFIG, picture
from models import randomize
from packqvit_delegate.models import VisionTransformer

ROOT = Path(__file__).resolve().parents[2]
MICRO = """
import dataclasses, sys
from packqvit_delegate.models import ZOO, ViTConfig
config = ViTConfig(image_size=32, patch_size=8, num_classes=4, dim=48, depth=1)
ZOO["vit_tiny"] = dataclasses.replace(ZOO["vit_tiny"], config=config)
from packqvit_delegate.cli.app import main
for line in sys.argv[1:]:
    sys.argv = ["packqvit", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""
"""The commands one after the other, in one process: each alone would import everything again."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the wheel of this tree; what it depends on is borrowed from the environment of the tests."""
    build = ROOT / "build" / "native"
    if not (build / "CMakeCache.txt").is_file():
        pytest.skip("no build/native: run `make build` first, whose compiled files the wheel takes")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    options = ["--no-build-isolation", "--no-deps", "-q", "-w", folder, f"--config-settings=build-dir={build}"]
    subprocess.run([*pip, "wheel", *options, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True)
    borrowed = dict.fromkeys((sysconfig.get_paths()["purelib"], str(Path(next(iter(executorch.__path__))).parent)))
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")}))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
    return folder / "venv" / "bin"


@pytest.mark.slow
def test_the_commands_of_a_newcomer(environment: Path, tmp_path: Path) -> None:
    save_file(randomize(VisionTransformer(CONFIG)).state_dict(), tmp_path / "w.safetensors")
    for label in range(4):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        picture(label).save(tmp_path / "photos" / str(label) / "a.jpg")
    lines = [
        "export --model vit_tiny --weights w.safetensors --calibration photos --bits 4 -o a.pte --report a.html",
        "run a.pte photos/0/a.jpg",
        "evaluate a.pte photos --processes 1",
        "inspect a.pte",
        "doctor",
    ]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [environment / "python", "-c", MICRO, *lines], cwd=tmp_path, capture_output=True, text=True, env=clean
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for words in ("delegate calls", "probability", "top-1 integer", "PackQViTBackend", "All that is needed is here."):
        assert words in result.stdout
    assert (tmp_path / "a.html").stat().st_size > 10_000  # the template is in the wheel
    assert str(environment.parent) in result.stdout  # doctor's library is the wheel's own
    script = subprocess.run([environment / "packqvit", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert script.stdout.startswith("packqvit 0."), script.stderr
