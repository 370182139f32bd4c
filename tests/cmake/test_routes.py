"""Every way to take the backend into a CMake project configures, builds and runs a program.

ExecuTorch's sources are not at hand: for the two routes that build on them, stand-in projects expose ExecuTorch's
target names over the Python package's libraries. They show that our CMake code is right about names and link options,
not that it fits every detail of ExecuTorch's own build. The consumer project
takes the real ones as well, by hand: EXECUTORCH_TREE names sources, executorch_DIR an installed package.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models import images
from packqvit_delegate import runtime
from programs import micro_program

ROOT = Path(__file__).resolve().parents[2]
AARCH64_BUILD = ROOT / "build" / "aarch64"
AARCH64_EXECUTORCH = ROOT / "build" / "executorch-aarch64" / "executorch"
QEMU = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "cortex-a76"]
KINDS = ("backend", "backend_static")
MAX_STRIPPED_BYTES = 600 * 1000


def run(*command: object, **environment: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, "PATH": path, **environment}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def executorch_package() -> Path:
    spec = importlib.util.find_spec("executorch")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A folder with a program and its input, and what comes out."""
    folder = tmp_path_factory.mktemp("routes")
    batch = images(1)
    program = micro_program("W4A4")
    assert program.report.is_whole
    program.save(folder / "model.pte")
    (folder / "input.bin").write_bytes(batch.numpy().tobytes())
    return folder, runtime.load(program.buffer).run(batch)[0].numpy()


@pytest.fixture(scope="module")
def build() -> Path:
    """One folder for all routes: the flags are the same, so that the second route compiles next to nothing."""
    return ROOT / "build" / "routes"


def assert_runs(case: tuple[Path, np.ndarray], program: Path, *emulator: str) -> None:
    folder, expected = case
    output = folder / "output.bin"
    output.unlink(missing_ok=True)
    libraries = AARCH64_EXECUTORCH if emulator else executorch_package()
    path = f"{libraries / 'lib'}"
    command = [*emulator, "-E", f"LD_LIBRARY_PATH={path}"] if emulator else [*emulator]
    run(
        *command,
        *(program, folder / "model.pte", folder / "input.bin", output),
        **({} if emulator else {"LD_LIBRARY_PATH": path}),
    )
    np.testing.assert_array_equal(np.fromfile(output, dtype=np.float32).reshape(expected.shape), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "is_shared"),
    [("wheel", True), ("installed", False), ("installed", True), ("tree", False), ("tree", True)],
)
def test_route(case, build, route, is_shared):
    as_the_wheel_spells_it = executorch_package() / "share" / "cmake" / ".." / ".."  # else everything compiles again
    options = {
        "wheel": [f"-Dexecutorch_DIR={executorch_package() / 'share' / 'cmake'}"],
        "installed": [f"-Dexecutorch_DIR={ROOT / 'tests' / 'cmake' / 'standin_installed'}"],
        "tree": [],
    }[route]
    run(
        *("cmake", "--fresh", "-S", ROOT / "tests" / "cmake" / "consumer", "-B", build, "-G", "Ninja"),
        *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"),  # without symbols: in half the time
        *(f"-DPACKQVIT_ROUTE={route}", f"-DEXECUTORCH_PACKAGE={as_the_wheel_spells_it}"),
        *(f"-DEXECUTORCH_BUILD_SHARED={is_shared}", f"-DPython_EXECUTABLE={sys.executable}", *options),
    )
    run("cmake", "--build", build, "-j", "2", "--target", "consumer_backend", "consumer_backend_static")
    for kind in KINDS:
        assert_runs(case, build / f"consumer_{kind}")
    # A shared library beside a static ExecuTorch would register with a runtime of its own, so there both are carried.
    needed = {kind: run("readelf", "-d", build / f"consumer_{kind}") for kind in KINDS}
    assert ("libpackqvit_backend.so" in needed["backend"]) == is_shared
    assert "libpackqvit_backend.so" not in needed["backend_static"]


def test_runner_needs_the_headers_of_etdump(tmp_path):
    """An installed source build of ExecuTorch has the library alone."""
    command = [
        *("cmake", "-S", ROOT, "-B", tmp_path, "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}"),
        f"-Dexecutorch_DIR={ROOT / 'tests' / 'cmake' / 'standin_installed'}",
        f"-DEXECUTORCH_PACKAGE={executorch_package()}",
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert result.returncode != 0
    assert "-DPACKQVIT_EXECUTORCH_SOURCE=" in result.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """`cmake --install` of the aarch64 build."""
    if not (AARCH64_BUILD / "backend_cpp" / "libpackqvit_backend.so").is_file():
        pytest.skip(f"no build in {AARCH64_BUILD}: run `make aarch64` first")
    prefix = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", AARCH64_BUILD, "--prefix", prefix)
    return prefix


@pytest.mark.aarch64
def test_installed_package(case, installed, tmp_path):
    toolchain = ROOT / "cmake" / "aarch64-linux-gnu.cmake"
    run(
        *("cmake", "-S", ROOT / "tests" / "cmake" / "consumer", "-B", tmp_path / "build", "-G", "Ninja"),
        *(f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DPACKQVIT_ROUTE=package"),
        *(f"-Dpackqvit_DIR={installed / 'lib' / 'cmake' / 'packqvit'}",),
        f"-Dexecutorch_DIR={AARCH64_EXECUTORCH / 'share' / 'cmake'}",
    )
    run("cmake", "--build", tmp_path / "build")
    for kind in KINDS:
        assert_runs(case, tmp_path / "build" / f"consumer_{kind}", *QEMU)


def test_what_is_installed(installed):
    files = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {
        "bin/packqvit_runner",
        "include/packqvit/backend.h",
        "lib/cmake/packqvit/packqvit-config.cmake",
        "lib/cmake/packqvit/packqvit-config-version.cmake",
        "lib/libpackqvit_backend.a",
        "lib/libpackqvit_backend.so",
    } <= files
    assert not [file for file in files if "gtest" in file or "plan_generated" in file]


def test_size_of_the_shared_library(installed, tmp_path):
    """What Android gets is measured by scripts/android_check.py."""
    run("llvm-strip-19", "-o", tmp_path / "stripped.so", installed / "lib" / "libpackqvit_backend.so")
    assert 100_000 < (tmp_path / "stripped.so").stat().st_size <= MAX_STRIPPED_BYTES


@pytest.mark.parametrize("preset", ["linux-x86_64", "linux-aarch64"])
def test_preset_configures(preset, tmp_path):
    if preset == "linux-aarch64" and not AARCH64_EXECUTORCH.is_dir():
        pytest.skip(f"no {AARCH64_EXECUTORCH}: run `make aarch64` first")
    run("cmake", "--preset", preset, "-S", ROOT, "-B", tmp_path, f"-DPython_EXECUTABLE={sys.executable}")
    assert (tmp_path / "build.ninja").is_file()


def test_preset_without_an_ndk(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ANDROID_NDK": "/nowhere/ndk", "EXECUTORCH_ANDROID": "/nowhere/et"}
    command = ["cmake", "--preset", "android-arm64-v8a", "-S", str(ROOT), "-B", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode != 0
    assert "/nowhere/ndk/build/cmake/android.toolchain.cmake" in result.stderr
