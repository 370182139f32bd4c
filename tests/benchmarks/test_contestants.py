"""What the model benchmark knows of our programs."""

from __future__ import annotations

from collections import Counter

from benchmarks.contestants import operator_names
from models import MICRO
from programs import micro_program


def test_each_operator_of_attention_has_its_own_name() -> None:
    names = operator_names(micro_program("W8A8"))
    counts = Counter(name for joined in names.values() for name in joined.split(" + "))
    for name in ("attention_scores", "softmax", "attention_values"):
        assert counts[name] == MICRO["depth"], (name, names)
    assert counts["linear"] + counts["linear_add"] >= 4 * MICRO["depth"]
