"""Masks and biases of attention: only what a softmax sees of them counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import images, plain_model
from packqvit_delegate import QuantizationConfig, quantize


def _model(offset: float = 0.0, hidden: float = 0.0) -> nn.Module:
    """`offset` on all of each row's bias; `hidden` on every third key."""
    model = plain_model(attention="masked", projection="chunk")
    for block in model.blocks:
        rows = torch.arange(block.attention.mask.shape[1]).reshape(-1, 1)
        block.attention.mask += offset * (rows % 4 - 1)
        if hidden:
            block.attention.mask[..., ::3] = hidden
    return model


def _quantize(model: nn.Module, batch: torch.Tensor) -> torch.fx.GraphModule:
    return quantize(model, (batch[:1],), batch, QuantizationConfig.preset("w8a8"))


def _biases(integer: torch.fx.GraphModule) -> list[torch.Tensor]:
    return [buffer for name, buffer in integer.named_buffers() if name.startswith("attention_bias")]


def _within_rows(integer: torch.fx.GraphModule) -> list[torch.Tensor]:
    """What a softmax sees."""
    return [bias - bias.amax(-1, keepdim=True) for bias in _biases(integer)]


@pytest.mark.parametrize("offset", [0.5, 300.0, -1e4])
def test_what_is_the_same_for_a_row_changes_nothing(offset: float) -> None:
    batch = images(2)
    plain, shifted = (_quantize(_model(o), batch) for o in (0.0, offset))
    for expected, found in zip(_within_rows(plain), _within_rows(shifted), strict=True):
        assert float((expected - found).abs().max()) <= max(2.0, 2e-6 * abs(offset) * float(expected.abs().max()))
    torch.testing.assert_close(shifted(batch[:1]), plain(batch[:1]), atol=0.2, rtol=0.05)


@pytest.mark.parametrize("hidden", [torch.finfo(torch.float32).min, -1e9])
def test_a_mask_is_beyond_all_scores(hidden: float) -> None:
    for bias in _biases(_quantize(_model(hidden=hidden), images(2))):
        assert bool((bias[..., ::3] == -(1 << 29)).all()) and -(1 << 20) < int(bias.max()) <= 0


def test_a_bias_that_scores_can_make_up_for_is_kept() -> None:
    """-60 is far below the rest, and 70 of the scores above it."""
    batch = images(2)
    (bias, *_) = _biases(_quantize(_model(hidden=-60.0), batch))
    (reference, *_) = _biases(_quantize(_model(hidden=-30.0), batch))
    assert float(bias.min()) == pytest.approx(2 * float(reference.min()), rel=0.15)


def test_a_mask_that_scores_near_zero_cannot_hold_stays_outside() -> None:
    model = _model(hidden=-1e9)
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[:96] *= 1e-6
        model.blocks[0].attention.qkv.bias[:96] *= 1e-6
    targets = [str(node.target) for node in _quantize(model, images(2)).graph.nodes]
    assert "aten.softmax.int" in targets and "packqvit.softmax.default" in targets
