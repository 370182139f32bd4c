"""Class names in label order, from a text file like ImageNet's synset_words.txt."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from packqvit_delegate.arguments import checked
from packqvit_delegate.errors import PackQViTError


class ClassName(NamedTuple):
    """One class: its WordNet synset (`n01440764`, empty when the file has none) and its name (`tench, Tinca tinca`)."""

    synset: str
    name: str


def is_synset(text: str) -> bool:
    """Tells whether `text` is a WordNet noun synset: `n` and eight digits."""
    return len(text) == 9 and text[0] == "n" and text[1:].isdigit()


@checked
def read_class_names(path: str | Path) -> list[ClassName]:
    """Reads one class a line, `n01440764 tench, Tinca tinca` or the name alone; the line's number is the label.

    Raises:
        PackQViTError: the file is missing, is not text, or has no line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PackQViTError(f"cannot read the class names in {path}: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise PackQViTError(f"{path} has no class names: write one class a line, in label order")
    names = []
    for line in lines:
        first, _, rest = line.strip().partition(" ")
        names.append(ClassName(first, rest.strip()) if is_synset(first) else ClassName("", line.strip()))
    return names
