"""What the model benchmark knows of our programs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
import typer
from torch import nn

from benchmarks import contestants
from benchmarks.contestants import Workshop, operator_names, with_plain_attention
from benchmarks.operators import measure_operators
from benchmarks.peers import PEERS, XNNPACK_DYNAMIC, make_peers
from benchmarks.terminal import check_models
from models import MICRO, images, plain_model, randomize, timm_model
from packqvit_delegate import runtime
from packqvit_delegate.data.preprocessing import Preprocessing
from packqvit_delegate.models import LoadedModel, SwinConfig, SwinTransformer
from programs import micro_program, signal_to_noise


def test_each_operator_of_attention_has_its_own_name() -> None:
    names = operator_names(micro_program("W8A8"))
    counts = Counter(name for joined in names.values() for name in joined.split(" + "))
    for name in ("attention_scores", "softmax", "attention_values"):
        assert counts[name] == MICRO["depth"], (name, names)
    assert counts["linear"] + counts["linear_add"] >= 4 * MICRO["depth"]


def workshop(model: nn.Module, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Workshop:
    half = (0.5, 0.5, 0.5)
    loaded = LoadedModel("micro", model.eval(), Preprocessing(MICRO["image"], 1.0, half, half), "random", random=True)
    monkeypatch.setattr(contestants, "load", lambda *_: loaded)
    return Workshop("micro", folder)


def test_a_peer_of_attention_pooling_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A dynamically quantised linear of constant queries would be outside of XNNPACK, and nothing else could run it."""
    model = randomize(timm_model("vit_base_patch16_siglip_224"))
    (peer,) = make_peers(workshop(model, monkeypatch, tmp_path), [PEERS[XNNPACK_DYNAMIC]])
    with torch.no_grad():
        real = model(images(1))
    (result,) = runtime.load(peer.path).run(images(1))
    assert signal_to_noise(real, result) > 20


def test_a_hybrid_is_called_so_and_its_time_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("executorch.devtools")
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1))
    ours = workshop(nn.Sequential(stem, plain_model()), monkeypatch, tmp_path).ours("W8A8")
    assert ours.name == "W8A8 + XNNPACK"
    shares = measure_operators(ours.path, 1, 2)
    assert any(name.startswith("XNNPACK: Convolution") for name in shares)
    assert any("linear" in name.split(" + ") for name in shares)
    assert not any(name.startswith("XNNPACK: ") and name.partition(": ")[2].isdigit() for name in shares)


def test_models_are_ours_or_of_timm() -> None:
    check_models(["swin_tiny", "vit_tiny_patch16_224", "hf:any/folder"])
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
