"""What the model benchmark knows of our programs."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import typer

from benchmarks.contestants import operator_names, with_plain_attention
from benchmarks.terminal import check_models
from models import MICRO, images, randomize, timm_model
from packqvit_delegate.models import SwinConfig, SwinTransformer
from programs import micro_program


def test_each_operator_of_attention_has_its_own_name() -> None:
    names = operator_names(micro_program("W8A8"))
    counts = Counter(name for joined in names.values() for name in joined.split(" + "))
    for name in ("attention_scores", "softmax", "attention_values"):
        assert counts[name] == MICRO["depth"], (name, names)
    assert counts["linear"] + counts["linear_add"] >= 4 * MICRO["depth"]


def test_models_are_ours_or_of_timm() -> None:
    check_models(["swin_tiny", "vit_tiny_patch16_224"])
    with pytest.raises(typer.BadParameter, match="vit_huge is not one of deit_tiny, .*, a name of timm's"):
        check_models(["swin_tiny", "vit_huge"])


def test_attention_written_out_for_peers_computes_the_same() -> None:
    config = SwinConfig(image_size=MICRO["image"], patch_size=2, window=4, dim=24, heads=2, depths=(2, 2))
    for model in (randomize(SwinTransformer(config)), timm_model("vit_tiny_patch16_224")):
        plain = with_plain_attention(model)
        graph = torch.export.export(plain, (images(1),)).graph
        assert not any("scaled_dot_product" in str(node.target) for node in graph.nodes)
        with torch.no_grad():
            torch.testing.assert_close(plain(images()), model(images()), rtol=1e-4, atol=1e-4)
