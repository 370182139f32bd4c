"""What the pages show is what runs: every Python block and every command, with micro models and a few pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packqvit_delegate.sensitivity import MixedPrecision
from pages.blocks import ELSEWHERE, NOT_RUN, PAGES, page_blocks
from pages.shell import run_shell

BLOCKS = page_blocks()
PYTHON = [page for page, blocks in BLOCKS.items() if any(block.kind == "python" for block in blocks)]
SHELL = [page for page, blocks in BLOCKS.items() if any(block.runs for block in blocks)]

SHORTER = {"steps=2000": "steps=2, batch=4"}
"""What in Python blocks would take too long."""


def test_the_lists_name_nothing_that_is_gone():
    first = {block.first for blocks in BLOCKS.values() for block in blocks}
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in first)] == []
    assert set(ELSEWHERE) < {path.name for path in PAGES}
    assert {block.kind for blocks in BLOCKS.values() for block in blocks} <= {"python", "json", "sh", "indented"}
    assert len(SHELL) >= 4 and len(PYTHON) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", PYTHON)
def test_python_blocks_run(page: str, place: Path) -> None:
    """One after the other, as they stand on the page: a later one may use what an earlier one made."""
    names: dict[str, object] = {}
    for block in BLOCKS[page]:
        if block.kind == "python":
            text = block.text
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            exec(compile("\n" * block.line + text, page, "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", SHELL)
def test_commands_run(page: str, place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All of a page in one shell: a later block may use the variables of an earlier one."""
    script = "\n".join(block.text for block in BLOCKS[page] if block.runs)
    code, output = run_shell(script, place, tmp_path_factory.mktemp("bin"))
    assert code == 0, output


def test_the_mix_of_the_page_loads(tmp_path: Path) -> None:
    (block,) = [block for blocks in BLOCKS.values() for block in blocks if block.kind == "json"]
    path = tmp_path / "mix.json"
    path.write_text(block.text)
    assert set(MixedPrecision.load(path).overrides) == set(json.loads(block.text)["overrides"])
