"""What the model benchmark knows of our programs."""

from __future__ import annotations

from collections import Counter

from benchmarks.contestants import operator_names
from models import MICRO, images, plain_model
from packqvit_delegate import QuantizationConfig, export


def test_each_operator_of_attention_has_its_own_name() -> None:
    x = images(4)
    program = export(plain_model(), (x[:1],), x, config=QuantizationConfig.from_bits(8))
    names = operator_names(program)
    counts = Counter(name for joined in names.values() for name in joined.split(" + "))
    for name in ("attention_scores", "softmax", "attention_values"):
        assert counts[name] == MICRO["depth"], (name, names)
    assert counts["linear"] + counts["linear_add"] >= 4 * MICRO["depth"]
