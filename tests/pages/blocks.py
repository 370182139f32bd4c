"""The code blocks of README.md and docs/*.md, and which of them are no code or cannot run here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

ELSEWHERE = {
    "android.md": "tests/android/test_docs.py runs its blocks, which say themselves what they need",
    "cpp.md": "tests/cmake/test_wheel_package.py runs its block outside the tree",
}
"""Pages that another test reads."""

FORMULAS = ("architecture.md", "kernels.md", "numerics.md")
"""Pages whose indented blocks are formulas and diagrams, unless they begin like a command."""
COMMAND = re.compile(r"(python|packqvit|make|pip|torchrun|cmake|export|for|\$|\.venv/|build/|[A-Z_]+=)")

NOT_RUN = {
    "make demo": "installs the package first; CI runs it, and `make test` is what runs this test",
    "python -m venv ": "the tests run in an environment already, with the package",
    "make bench": "timing needs a quiet machine; tests/benchmarks check the tools",
    "make compare": "likewise, and takes half an hour; tests/benchmarks/test_compare.py runs it on a micro model",
    "build/bench/": "likewise, and needs Google Benchmark",
    "torchrun ": "needs a cluster; tests/examples/test_finetune_qat.py runs it on two processes of the CPU",
}
"""How commands begin that are not run, and why."""


@dataclass(frozen=True)
class Block:
    """A fenced or an indented block.

    Attributes:
        page: Name of its file.
        line: Where it begins, from 1.
        kind: The word behind a fence ("" where there is none), or "indented".
        text: Its lines, without the indentation.
    """

    page: str
    line: int
    kind: str
    text: str

    @property
    def first(self) -> str:
        """Its first line."""
        return self.text.split("\n", 1)[0]

    @property
    def is_shell(self) -> bool:
        """Whether it has to be a command that runs: all that nothing says otherwise of."""
        if self.kind in ("sh", "bash", "console", "shell", ""):
            return True
        if self.kind != "indented":
            return False
        return self.page not in FORMULAS or bool(COMMAND.match(self.first))

    @property
    def runs(self) -> bool:
        """Whether it is a command that can run here."""
        return self.is_shell and not self.first.startswith(tuple(NOT_RUN))


def blocks(path: Path) -> list[Block]:
    """The blocks of a page, in its order."""
    lines = path.read_text(encoding="utf-8").split("\n")
    found, at = [], 0
    while at < len(lines):
        end = at + 1
        if lines[at].startswith("```"):
            while not lines[end].startswith("```"):
                end += 1
            found.append(Block(path.name, at + 1, lines[at][3:].strip(), "\n".join(lines[at + 1 : end])))
            end += 1
        elif lines[at].startswith("    ") and not lines[at - 1].strip():
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = "\n".join(line[4:] for line in lines[at:end]).rstrip()
            found.append(Block(path.name, at + 1, "indented", text))
        at = end
    return found


def page_blocks() -> dict[str, list[Block]]:
    """The blocks of all pages that are this test's, by the page's name."""
    return {path.name: blocks(path) for path in PAGES if path.name not in ELSEWHERE}
