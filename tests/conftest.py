"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with ImageNet pictures and weights; the test is skipped where there is none."""
    path = Path(os.environ.get("PACKQVIT_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no ImageNet data at {path}: set PACKQVIT_DATA to the folder that has it")
    return path
