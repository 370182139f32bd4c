"""examples/android/run_on_device.sh says what is missing, and does its work on a stand-in for a phone.

The stand-in is an `adb` that runs the commands on this machine, in a folder in the place of /data/local/tmp.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import executorch
import pytest

from packqvit_delegate import runtime
from programs import micro_program

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "android" / "run_on_device.sh"
FAKE_ADB = """#!/usr/bin/env bash
here() { sed "s#/data/local/tmp#$FAKE_ROOT#g; s#LD_LIBRARY_PATH=.#&:$FAKE_LIBRARIES#" <<<"$1"; }
case $1 in
  start-server) ;;
  get-state) if [ -n "$FAKE_STATE" ]; then echo "$FAKE_STATE"; else echo "error: no devices found" >&2; exit 1; fi ;;
  push) shift; to=$(here "${!#}"); cp "${@:1:$#-1}" "$to" ;;
  pull) cp "$(here "$2")" "$3" ;;
  shell) if [ "$2" = getprop ]; then echo "$FAKE_ABI"; else sh -c "$(here "$2")"; fi ;;
esac
"""


@pytest.fixture
def phone(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "adb").write_text(FAKE_ADB)
    (tools / "adb").chmod(0o755)
    (tmp_path / "phone").mkdir()
    (tmp_path / "model.pte").write_bytes(b"")

    def run(
        *arguments: object,
        state: str = "device",
        abi: str = "arm64-v8a",
        path: str = f"{tools}:{os.environ['PATH']}",
        out: Path = tmp_path,
        python: str = sys.executable,
    ):
        environment = {
            **os.environ,
            **{"PATH": path, "FAKE_ROOT": str(tmp_path / "phone"), "FAKE_STATE": state, "FAKE_ABI": abi},
            **{"PYTHON": python, "OUT": str(out), "FAKE_LIBRARIES": LIBRARIES},
        }
        return subprocess.run(
            ["/bin/bash", str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, env=environment
        )

    return run


LIBRARIES = str(Path(next(iter(executorch.__path__))) / "lib")  # on a phone the runner has them inside
RUNNER = runtime.executable_path("packqvit_runner")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"path": "/nowhere"}, "adb is missing: install the Android SDK platform tools"),
        ({"state": ""}, "no device: error: no devices found"),
        ({"state": "unauthorized"}, "the device is 'unauthorized': unlock it"),
        ({"abi": "x86_64"}, "the device runs x86_64"),
        ({"out": Path("/nowhere/out")}, "there is no folder /nowhere/out for the ETDump"),
        ({"python": "/usr/bin/false"}, "/usr/bin/false has no packqvit_delegate"),
    ],
)
def test_what_is_missing(phone, tmp_path, options, reason):
    result = phone(RUNNER, tmp_path / "model.pte", **options)
    assert result.returncode == 1
    assert reason in result.stderr


def test_wrong_arguments(phone, tmp_path):
    assert "usage:" in phone(RUNNER).stderr
    assert "there is no file gone.pte" in phone(RUNNER, "gone.pte").stderr
    assert "there is no file gone.ppm" in phone(RUNNER, tmp_path / "model.pte", "gone.ppm").stderr
    assert "unexpected argument 'b'" in phone(RUNNER, tmp_path / "model.pte", RUNNER, "b").stderr


def test_a_run(phone, tmp_path):
    program = micro_program("W4A4")
    program.save(tmp_path / "model.pte")
    result = phone(RUNNER, tmp_path / "model.pte", "--", "--warmup", "1", "--iterations", "3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "latency: median" in result.stdout and "3 runs" in result.stdout
    lines = result.stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("operator"))
    rows = [line.split() for line in lines[header + 1 : -1]]
    names = [row[0] for row in rows]
    calls = [str(node.target) for node in program.integer_module.graph.nodes if "packqvit" in str(node.target)]
    assert {name.split("_default")[0].removeprefix("packqvit_") for name in names} == {
        call.split(".")[1] for call in calls
    }
    assert sum(name.startswith("packqvit_softmax") for name in names) == 2  # one a block
    assert {row[1] for row in rows} == {"4"}
    assert lines[-1].startswith("sum")


@pytest.mark.parametrize("content", [b"", b"PQVITBLB" * 2])
def test_times_of_no_program_of_ours(tmp_path, content):
    for name, data in (("model.pte", content), ("model.etdump", b"")):
        (tmp_path / name).write_bytes(data)
    script = ROOT / "examples" / "android" / "operator_times.py"
    command = [sys.executable, str(script), str(tmp_path / "model.pte"), str(tmp_path / "model.etdump")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert f"has {len(content) // 8} calls of the PackQViT delegate" in result.stderr
