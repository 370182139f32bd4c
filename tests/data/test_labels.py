from __future__ import annotations

import pytest

from packqvit_delegate.data import ClassName, read_class_names
from packqvit_delegate.errors import PackQViTError


def test_synsets_and_plain_names(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("n01440764 tench, Tinca tinca\nplain name\nn123 not a synset\nn01443537\n\n")
    assert read_class_names(path) == [
        ClassName("n01440764", "tench, Tinca tinca"),
        ClassName("", "plain name"),
        ClassName("", "n123 not a synset"),
        ClassName("n01443537", ""),
    ]


def test_unusable_files(tmp_path):
    with pytest.raises(PackQViTError, match=r"cannot read .*gone\.txt"):
        read_class_names(tmp_path / "gone.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(PackQViTError, match="no class names"):
        read_class_names(tmp_path / "empty.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(PackQViTError, match="cannot read"):
        read_class_names(tmp_path / "binary")
