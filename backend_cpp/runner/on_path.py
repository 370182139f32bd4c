#!python
"""`packqvit_runner` on the PATH of the environment: becomes the native program beside the package.

The program finds ExecuTorch's libraries from where it lies, so that it cannot be moved into the folder of the scripts.
Nothing is imported from the package, which would first load PyTorch.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Replaces this process by the native program, with the same arguments."""
    folders = [Path(entry) / "packqvit_delegate" / "bin" for entry in sys.path]
    program = next((path for path in (folder / "packqvit_runner" for folder in folders) if path.is_file()), None)
    if program is None:
        sys.exit("packqvit_runner: the native program is not in this environment; run `pip install packqvit-delegate`")
    os.execv(program, [str(program), *sys.argv[1:]])


if __name__ == "__main__":
    main()
