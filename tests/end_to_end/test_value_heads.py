"""Value heads of another width than those of q and k: LeViT's, TinyViT's."""

from __future__ import annotations

import dataclasses

import pytest

from models import images, plain_model
from packqvit_delegate import QuantizationConfig, export
from programs import assert_whole_and_exact


@pytest.mark.parametrize(
    ("value_dim", "heads", "projection", "preset", "probabilities"),
    [
        (24, 3, "separate", "w8a8", "linear"),
        (40, 2, "split", "w8a8", "log2"),
        (5, 3, "split", "w4a8", "linear"),
        (9, 4, "separate", "w4a4", "log2"),
        (64, 1, "separate", "w8a8", "linear"),
    ],
)
def test_they_run_in_one_delegate_call_with_the_eager_bits(
    value_dim: int, heads: int, projection: str, preset: str, probabilities: str
) -> None:
    config = dataclasses.replace(QuantizationConfig.preset(preset), probabilities=probabilities)
    model, batch = plain_model(value_dim=value_dim, heads=heads, projection=projection), images(4)
    program = export(model, (batch[:2],), batch, config=config)
    assert_whole_and_exact(program, batch)
