"""What the wheel has for C++: a CMake package for programs outside the tree (docs/cpp.md), and a runner on PATH."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models import images
from packqvit_delegate import runtime
from programs import micro_program

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cpp.md").read_text()


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, **environment},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has of the repository what the page names, and a program with an image; the page's commands ran."""
    folder = tmp_path_factory.mktemp("application")
    shutil.copytree(ROOT / "examples" / "cpp", folder / "examples" / "cpp")
    batch = images(1)
    micro_program("W4A4").save(folder / "deit_tiny_w4a4.pte")
    (folder / "image.bin").write_bytes(batch.numpy().tobytes())
    (script,) = re.findall(r"^```sh\n((?:.*\n)*?)^```$", PAGE, re.MULTILINE)
    result = run("bash", "-euo", "pipefail", "-c", script, cwd=folder, CMAKE_GENERATOR="Ninja")
    assert result.returncode == 0, result.stdout + result.stderr
    best = int(runtime.load(folder / "deit_tiny_w4a4.pte").run(batch)[0].argmax())
    assert result.stdout.splitlines()[-1] == f"class {best}"
    return folder


@pytest.mark.slow
def test_the_backend_is_the_wheels_own(place: Path) -> None:
    libraries = run("ldd", place / "build" / "cpp" / "classify", cwd=place).stdout
    (found,) = re.findall(r"libpackqvit_backend\.so => (\S+)", libraries)
    assert Path(found).samefile(runtime.library_path())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "image", "words"),
    [
        ("nowhere.pte", "image.bin", "nowhere.pte is not a program that loads here"),
        ("examples/cpp/classify.cpp", "image.bin", "classify.cpp is not a program that loads here"),
        ("deit_tiny_w4a4.pte", "nowhere.bin", "nowhere.bin has 0 bytes, the program wants "),
    ],
)
def test_bad_files(place: Path, model: str, image: str, words: str) -> None:
    result = run(place / "build" / "cpp" / "classify", model, image, cwd=place)
    assert result.returncode == 1
    assert words in result.stderr


def test_the_page_names_the_options_of_the_header() -> None:
    header = (ROOT / "backend_cpp" / "include" / "packqvit" / "backend.h").read_text()
    for name in re.findall(r'k\w+Option\[\] = "(\w+)"', header):
        assert f"`{name}`" in PAGE


def test_the_runner_is_on_path(tmp_path: Path) -> None:
    result = run("packqvit_runner", "--model", "nowhere.pte", cwd=tmp_path)
    assert result.returncode == 1
    assert "nowhere.pte" in result.stderr


def test_without_the_package_the_runner_says_so(tmp_path: Path) -> None:
    result = run(sys.executable, "-S", "-I", ROOT / "backend_cpp" / "runner" / "on_path.py", cwd=tmp_path)
    assert result.returncode == 1
    assert "pip install" in result.stderr
