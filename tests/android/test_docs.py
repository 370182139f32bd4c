"""Every command of docs/android.md that can run on Linux runs as it stands; every other one says what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "android.md").read_text()
BLOCKS = re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", PAGE, re.MULTILINE)
OFFLINE = 3


def commands(kind: str) -> list[str]:
    return [text for label, text in BLOCKS if label == kind]


def test_every_block_says_what_it_needs():
    assert {label for label, _ in BLOCKS} == {"sh linux", "sh ndk", "sh device", "cmake"}


@pytest.mark.slow
def test_the_commands_for_linux_run():
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    outputs = []
    for text in commands("sh linux"):
        command = ["bash", "-euo", "pipefail", "-c", text]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if result.returncode == OFFLINE:
            pytest.skip(result.stderr.strip())
        assert result.returncode == 0, f"{text}\n{result.stdout}{result.stderr}"
        outputs.append(result.stdout)
    export, runner, check = outputs
    assert "uint8 [1, 224, 224, 3]" in " ".join(export.split())
    assert "output 0: Int [1, 5]" in runner and "latency: median" in runner
    assert re.search(r"pixel_codes\S*\s+1 ", runner) and re.search(r"patch_embedding\S*\s+1 ", runner)
    assert "needs: libexecutorch_jni.so" in check


@pytest.mark.parametrize("kind", ["sh linux", "sh ndk", "sh device"])
def test_the_shell_takes_every_block(kind):
    for text in commands(kind):
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_files_of_the_page_are_there():
    folders = r"(?:examples|examples/android|scripts|tests/android)"
    ours = rf"(?<![\w/]){folders}/\w+\.\w+|cmake/PackQViT\w+\.cmake|cmake/android-check"
    names = set(re.findall(ours, PAGE))
    assert len(names) > 5
    foreign = {"scripts/build_android_library.sh"}  # ExecuTorch's
    assert [name for name in names - foreign if not (ROOT / name).exists()] == []
