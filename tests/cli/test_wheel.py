"""What a newcomer does: pip installs the wheel outside of the tree, and then the commands and a script run there.

The environment has what pip resolves for the wheel's own metadata and nothing else, so that a dependency that is not
named is missed. To fetch it anew takes a gigabyte: here the same distributions are lent from the environment of the
tests, and pip, which may fetch nothing, has to find them enough. `make wheel` (`-m wide`) fetches them.
"""

from __future__ import annotations

import filecmp
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from safetensors.torch import save_file

from cli.conftest import CONFIG, picture
from cli.lending import closure, lend
from models import randomize
from packqvit_delegate.models import VisionTransformer

ROOT = Path(__file__).resolve().parents[2]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
EXTRAS = ("hub", "plots")
MICRO = """
import dataclasses, runpy, sys
from packqvit_delegate.cli.app import main
from packqvit_delegate.models import ZOO, ViTConfig
config = ViTConfig(image_size=32, patch_size=8, num_classes=4, dim=48, depth=1)
ZOO["vit_tiny"] = dataclasses.replace(ZOO["vit_tiny"], config=config)
for line in sys.argv[1:]:
    if line.endswith(".py"):
        runpy.run_path(line)
        continue
    sys.argv = ["packqvit", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""
"""The commands and the script one after the other, in one process: each alone would import everything again."""
SCRIPT = """
import torch
import packqvit_delegate
from packqvit_delegate import runtime
from packqvit_delegate.data import ImageFolder
from packqvit_delegate.models import load
loaded = load("vit_tiny", "w.safetensors")
images = torch.cat([batch.images for batch in ImageFolder.open("photos").sample(128).batches(16, loaded.preprocessing)])
packqvit_delegate.export(loaded.module, (images[:1],), [images], bits=4, metadata=loaded.metadata).save("b.pte")
print("seen:", runtime.load("b.pte").predict("photos/0/a.jpg")[0].index)
"""


def run(*command: object, **options: object) -> str:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = tuple(map(str, command))
    result = subprocess.run(command, capture_output=True, text=True, env=clean, **options)  # type: ignore[call-overload]
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PACKQVIT_WHEEL, or that of this tree, as scripts/repair_wheel.py leaves it."""
    if "PACKQVIT_WHEEL" in os.environ:
        return Path(os.environ["PACKQVIT_WHEEL"]).resolve(strict=True)
    build = ROOT / "build" / "native"
    if not (build / "CMakeCache.txt").is_file():
        pytest.skip("no build/native: run `make build` first, whose compiled files the wheel takes")
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-build-isolation", "--no-deps", "-q", "-w", folder, f"--config-settings=build-dir={build}"]
    run(*PIP, "wheel", *options, ROOT)
    (built,) = folder.glob("*.whl")
    run(sys.executable, ROOT / "scripts" / "repair_wheel.py", built, folder / "repaired")
    (repaired,) = (folder / "repaired").glob("*.whl")
    return repaired


def requirements(wheel: Path) -> list[str]:
    """What the wheel asks for, extras included."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []


@pytest.fixture(scope="module", params=["lent", pytest.param("fetched", marks=pytest.mark.wide)])
def environment(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of a new environment with wheel[hub,plots]."""
    folder = tmp_path_factory.mktemp(request.param)
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    options = ["--no-compile"]
    if request.param == "lent":
        site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder)}))
        lend(closure(requirements(wheel), EXTRAS), site)
        options.append("--no-index")
    run(*PIP, "--python", python, "install", "-q", *options, f"{wheel}[{','.join(EXTRAS)}]", cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights and one picture of each class."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "script.py").write_text(SCRIPT)
    save_file(randomize(VisionTransformer(CONFIG)).state_dict(), folder / "w.safetensors")
    for label in range(4):
        (folder / "photos" / str(label)).mkdir(parents=True)
        picture(label).save(folder / "photos" / str(label) / "a.jpg")
    return folder


@pytest.mark.slow
def test_the_commands_and_the_script_of_a_newcomer(environment: Path, place: Path) -> None:
    lines = [
        "export --model vit_tiny --weights w.safetensors --calibration photos --bits 4 -o a.pte --report a.html",
        "run a.pte photos/0/a.jpg",
        "evaluate a.pte photos",
        "inspect a.pte",
        "doctor",
        "script.py",
    ]
    output = run(environment / "python", "-c", MICRO, *lines, cwd=place)
    for words in ("delegate calls", "probability", "top-1 integer", "PackQViTBackend", "All that is needed is here."):
        assert words in output
    assert (place / "a.html").stat().st_size > 10_000  # the template is in the wheel
    assert str(environment.parent) in output  # doctor's library is the wheel's own
    assert output.splitlines()[-1] in {f"seen: {label}" for label in range(4)}
    assert (place / "b.pte").read_bytes() == (place / "a.pte").read_bytes()  # a script makes what the command makes
    assert run(environment / "packqvit", "--version", cwd=place).startswith("packqvit 0.")


def test_the_tags_are_true(wheel: Path) -> None:
    """Any Python 3, and the glibc that auditwheel finds the programs inside to need."""
    assert re.fullmatch(r"packqvit_delegate-[\d.]+-py3-none-manylinux_2_\d+_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert "packqvit_delegate/lib/libpackqvit_backend.so" in names
    assert not [name for name in names if "executorch" in name.lower() and not name.endswith(".cmake")]


def test_the_source_distribution_has_what_a_build_needs(tmp_path: Path) -> None:
    """It is what git has, byte for byte: then it builds where a clone does. `make wheel` builds the wheel out of it."""
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone of git")
    code = "import sys, scikit_build_core.build as b; print(b.build_sdist(sys.argv[1]))"
    name = run(sys.executable, "-c", code, tmp_path, cwd=ROOT).splitlines()[-1]
    with tarfile.open(tmp_path / name) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / name.removesuffix(".tar.gz")
    tracked = [Path(file) for file in listed.stdout.split("\0") if file and not file.startswith(".ci/")]
    assert [file for file in tracked if not filecmp.cmp(ROOT / file, unpacked / file, shallow=False)] == []
    assert (unpacked / "PKG-INFO").is_file() and not (unpacked / "build").exists()
