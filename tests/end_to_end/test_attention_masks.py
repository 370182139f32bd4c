"""Attention that a constant keeps from some keys, and attention of more keys than a class token's usual images have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MICRO, images, plain_model, randomize
from packqvit_delegate import Program, QuantizationConfig, export
from programs import assert_whole_and_exact, signal_to_noise

DIM, HEADS, TOKENS = MICRO["dim"], MICRO["heads"], 17
Masked = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


class MaskedAttention(nn.Module):
    """Self-attention whose masks are buffers: `hidden`, of the keys that a query does not see."""

    def __init__(self, function: Masked) -> None:
        super().__init__()
        self.function = function
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))
        hidden = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        self.register_buffer("hidden", hidden)
        self.register_buffer("added", torch.zeros(TOKENS, TOKENS).masked_fill(hidden, -math.inf))
        self.positions = nn.Parameter(torch.zeros(HEADS, TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.proj(self.function(self, q, k, v).transpose(1, 2).flatten(2))


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) * 0.25


MASKS: dict[str, Masked] = {
    "causal": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    "added": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.added),
    "boolean": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, ~m.hidden),
    "filled": lambda m, q, k, v: scores(q, k).masked_fill(m.hidden, torch.finfo(torch.float32).min).softmax(-1) @ v,
    "chosen": lambda m, q, k, v: torch.where(m.hidden, -1e9, scores(q, k)).softmax(-1) @ v,
    "with positions": lambda m, q, k, v: (scores(q, k) + m.positions + m.added).softmax(-1) @ v,
    "ends": lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.added[:1].expand(TOKENS, -1)),
}


def masked_model(function: Masked) -> nn.Module:
    model = plain_model(pool="mean")
    for block in model.blocks:
        block.attention = MaskedAttention(function)
    return randomize(model)


def accuracy(program: Program, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return signal_to_noise(model(x), torch.cat([program.integer_module(image) for image in x.split(1)]))


@pytest.mark.parametrize("name", MASKS)
def test_masks_run_in_one_delegate_call_with_the_eager_bits(name: str) -> None:
    model, x = masked_model(MASKS[name]), images(64)
    program = export(model, (x[:1],), x, bits=8)
    assert_whole_and_exact(program, x[:2])
    assert accuracy(program, model, x) > 28


def test_log2_probabilities_of_a_causal_mask() -> None:
    x = images(8)
    config = dataclasses.replace(QuantizationConfig.preset("w4a4"), probabilities="log2")
    assert_whole_and_exact(export(masked_model(MASKS["causal"]), (x[:1],), x, config=config), x[:2])


def test_a_causal_mask_is_kept_once_and_in_bytes() -> None:
    """Of all blocks, one byte for each pair of tokens; the masked program is as large as one with no mask and that."""
    x = images(4)
    causal = export(masked_model(MASKS["causal"]), (x[:1],), x, bits=8)
    plain = export(masked_model(lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v)), (x[:1],), x, bits=8)
    assert len(causal.buffer) - len(plain.buffer) < TOKENS * TOKENS + 800


@pytest.mark.parametrize(("norm_first", "causal"), [(True, True), (False, True), (False, False)])
def test_encoders_of_torch(norm_first: bool, causal: bool) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(
                DIM, HEADS, 2 * DIM, 0.0, "gelu", batch_first=True, norm_first=norm_first
            )
            self.patch, self.encoder = nn.Conv2d(3, DIM, 8, 8), nn.TransformerEncoder(layer, 2, nn.LayerNorm(DIM))
            self.head = nn.Linear(DIM, 10)
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(16))

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).transpose(1, 2)
            x = self.encoder(x, mask=self.mask, is_causal=True) if causal else self.encoder(x)
            return self.head(x.mean(1))

    model, x = randomize(Encoder()), images(64)
    program = export(model, (x[:1],), x, bits=8)
    assert_whole_and_exact(program, x[:2])
    assert accuracy(program, model, x) > 28


@pytest.mark.parametrize("probabilities", ["linear", "log2"])
def test_many_keys(probabilities: str) -> None:
    side = 8 * 37  # 1370 tokens, as DINOv2 has at 518 pixels
    model, x = plain_model(embedding="no_position", heads=1), images(2, side)
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), probabilities=probabilities)
    assert_whole_and_exact(export(model, (x[:1],), x, config=config), x[:1])
