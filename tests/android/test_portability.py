"""The portability check passes on our sources, and notices what Android does not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OFFLINE = 3


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "android_check.py"), "--jobs", "2", *map(str, arguments)]
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
    ("source", "reason"),
    [
        # Declared by hand, as a newer header would: only the linker can notice.
        ('extern "C" const char* gnu_get_libc_version();\n', "gnu_get_libc_version"),
        (
            'extern "C" char* secure_getenv(const char*);\n#define gnu_get_libc_version() secure_getenv("A")\n',
            "secure_g",
        ),
        ("#include <gnu/libc-version.h>\n", "gnu/libc-version.h' file not found"),
    ],
)
def test_a_call_of_glibc_alone_is_noticed(tmp_path, source, reason):
    added = tmp_path / "added.cpp"
    added.write_text(f"{source}__attribute__((constructor)) static void call() {{ (void)gnu_get_libc_version(); }}\n")
    result = check("--add", added)
    assert result.returncode == 1
    assert "android check failed" in result.stderr
    assert reason in result.stderr


def test_no_package_and_no_network(tmp_path):
    """A clear word instead of a stack trace."""
    environment = {**os.environ, "PATH": "/nowhere"}
    command = [sys.executable, str(ROOT / "scripts" / "android_check.py"), "--work", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == OFFLINE
    assert "android check skipped: npm is missing" in result.stderr


def test_a_damaged_package(tmp_path):
    (tmp_path / "react-native-executorch-0.9.3.tgz").write_bytes(b"not an archive")
    result = check("--work", tmp_path)
    assert result.returncode == 1
    assert "is damaged" in result.stderr and "delete it" in result.stderr
