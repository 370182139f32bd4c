"""Prints requirements of pyproject.toml, one a line: `build`, `project`, or the name of an extra.

pip can install a project, but not what is needed before it is built without isolation, nor an extra alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib  # type: ignore[no-redef]


def main() -> None:
    """Prints the requirements of the groups named on the command line."""
    pyproject = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
    groups = {
        "build": pyproject["build-system"]["requires"],
        "project": pyproject["project"]["dependencies"],
        **pyproject["project"]["optional-dependencies"],
    }
    for name in sys.argv[1:]:
        print(*groups[name], sep="\n")


if __name__ == "__main__":
    main()
