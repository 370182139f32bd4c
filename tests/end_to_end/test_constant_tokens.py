"""Streams that begin with constants, or take some up: positions behind a norm, latents, mask tokens, class tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import MICRO, images, plain_model
from packqvit_delegate import export
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.passes import float_operators
from programs import assert_whole_and_exact, signal_to_noise

DIM = MICRO["dim"]
CHEAP = CalibrationMethod(rounding="nearest", bias_correction=False, compensation=False, token_importance=False)


class CrossBlock(nn.Module):
    """Queries look at other tokens, and an MLP follows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_q, self.norm_k, self.norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.attention = nn.MultiheadAttention(DIM, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        keys = self.norm_k(tokens)
        queries = queries + self.attention(self.norm_q(queries), keys, keys, need_weights=False)[0]
        return queries + self.mlp(self.norm(queries))


class Constants(nn.Module):
    """A plain model with constant tokens beside it; `forward` says what becomes of them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.model, self.function = plain_model(), forward
        self.norm, self.fc = nn.LayerNorm(DIM), nn.Linear(DIM, DIM)
        self.cross, self.head = nn.ModuleList(CrossBlock() for _ in range(2)), nn.Linear(DIM, 10)
        self.positions = nn.Parameter(torch.randn(1, 17, DIM))
        self.latents, self.mask = nn.Parameter(torch.randn(1, 4, DIM)), nn.Parameter(torch.randn(1, 1, DIM))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def tokens(self, x: Tensor) -> Tensor:
        """[B, 17, D] in front of the blocks."""
        return self.model._embed(self.model.patch(x))

    def blocks(self, x: Tensor) -> Tensor:
        """[B, N, D] -> logits of all tokens."""
        for block in self.model.blocks:
            x = block(x)
        return self.head(self.model.norm(x))


def resampler(m: Constants, x: Tensor) -> Tensor:
    latents, tokens = m.latents.expand(len(x), -1, -1), m.tokens(x)
    for block in m.cross:
        latents = block(latents, tokens)
    return m.head(m.norm(latents))


def masked(m: Constants, x: Tensor) -> Tensor:
    """A decoder that puts the same token wherever the encoder saw nothing."""
    seen = m.fc(m.model.norm(m.model.blocks[0](m.tokens(x)[:, [0, 2, 5, 6, 9, 16]])))
    all_tokens = torch.cat([seen, m.mask.expand(len(x), 11, -1)], 1)
    order = [0, 6, 1, 7, 8, 2, 3, 9, 10, 4, 11, 12, 13, 14, 15, 16, 5]
    block = m.model.blocks[1]
    return m.head(m.norm(block(all_tokens[:, order] + m.positions)))


def late_tokens(m: Constants, x: Tensor) -> Tensor:
    """Tokens that join behind the blocks, as class tokens do, and attend to themselves and the patches."""
    late, tokens = m.latents.expand(len(x), -1, -1), m.tokens(x)
    for block in m.cross:
        late = block(late, torch.cat([late, tokens], 1))
    return m.head(late[:, 0])


MODELS: dict[str, Callable[[Constants, Tensor], Tensor]] = {
    "positions_behind_a_norm": lambda m, x: m.blocks(m.norm(m.tokens(x)) + m.positions),
    "positions_behind_a_linear": lambda m, x: m.blocks(m.fc(m.norm(m.tokens(x))) + m.positions),
    "positions_again": lambda m, x: m.blocks(m.model.blocks[0](m.tokens(x)) + m.positions),
    "class_token_behind_a_norm": lambda m, x: m.blocks(
        torch.cat([m.mask.expand(len(x), -1, -1), m.norm(m.tokens(x))[:, 1:]], 1) + m.positions
    ),
    "prompts": lambda m, x: m.blocks(torch.cat([m.latents.expand(len(x), -1, -1), m.model.blocks[0](m.tokens(x))], 1)),
    "resampler": resampler,
    "masked": masked,
    "late_tokens": late_tokens,
}


@pytest.mark.parametrize("name", MODELS)
def test_constant_tokens_are_codes(name: str) -> None:
    model, batch = Constants(MODELS[name]).eval(), images(16)
    program = export(model, (batch[:2],), batch, bits=8, method=CHEAP)
    assert float_operators(program.integer_module) == []
    quantisers = program.integer_module.graph.find_nodes(op="call_function", target=torch.ops.packqvit.quantize.default)
    assert len(quantisers) == 1  # of the image alone
    (found,) = assert_whole_and_exact(program, batch[:4])
    with torch.no_grad():
        assert signal_to_noise(model(batch[:4]), found) > 28
