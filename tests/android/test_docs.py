"""Every command of docs/android.md that can run on Linux runs as it stands; every other one says what it needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from packqvit_delegate.models import ZOO, ViTConfig
from pages.shell import run_shell

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "android.md").read_text()
BLOCKS = re.findall(r"^```(.*)\n((?:.*\n)*?)^```$", PAGE, re.MULTILINE)
OFFLINE = 3
MICRO = ViTConfig(image_size=224, patch_size=32, num_classes=10, dim=48, depth=1)
"""What is exported in the place of DeiT-Tiny, which takes minutes. The images are the page's."""


def commands(kind: str) -> list[str]:
    return [text for label, text in BLOCKS if label == kind]


def test_every_block_says_what_it_needs():
    assert {label for label, _ in BLOCKS} == {"sh linux", "sh ndk", "sh device", "cmake"}


@pytest.mark.slow
def test_the_commands_for_linux_run(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(ZOO, "deit_tiny", replace(ZOO["deit_tiny"], config=MICRO))
    to_export, *others = commands("sh linux")
    code, export = run_shell(to_export, ROOT, tmp_path)
    assert code == 0, export
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    outputs = []
    for text in others:
        command = ["bash", "-euo", "pipefail", "-c", text]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if result.returncode == OFFLINE:
            pytest.skip(result.stderr.strip())
        assert result.returncode == 0, f"{text}\n{result.stdout}{result.stderr}"
        outputs.append(result.stdout)
    runner, check = outputs
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
