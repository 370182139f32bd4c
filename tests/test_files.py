"""Whether results can be written is asked before the work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.files import check_writable


def test_new_files_and_files_that_exist(tmp_path: Path) -> None:
    (tmp_path / "old.pte").write_text("old")
    check_writable(tmp_path / "old.pte", None, str(tmp_path / "new.pte"))
    assert (tmp_path / "old.pte").read_text() == "old" and not (tmp_path / "new.pte").exists()


def test_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PackQViTError, match=r"there is no folder .*gone for a\.pte"):
        check_writable(tmp_path / "a.pte", tmp_path / "gone" / "a.pte")
    with pytest.raises(PackQViTError, match="is a folder"):
        check_writable(tmp_path)
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(PackQViTError, match="may not be written"):
        check_writable(tmp_path / "a.pte")
