"""Grouped-query and multi-query attention: several query heads share k and v, however that is spelled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MICRO, images, plain_model
from packqvit_delegate import export
from programs import assert_exact, assert_whole_and_exact, signal_to_noise

DIM, HEADS, TOKENS = MICRO["dim"], 4, 17
CHANNELS = DIM // HEADS


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def interleaved(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    repeats = q.shape[1] // k.shape[1]
    return F.scaled_dot_product_attention(q, k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1))


def expanded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As Hugging Face's repeat_kv, with the products written out."""
    k, v = (x[:, :, None].expand(-1, -1, q.shape[1] // x.shape[1], -1, -1).flatten(1, 2) for x in (k, v))
    return torch.softmax(q @ k.transpose(-2, -1) * CHANNELS**-0.5, -1) @ v


class Attention(nn.Module):
    def __init__(
        self, groups: int, attend: Callable[[Tensor, Tensor, Tensor], Tensor], turned: bool, packed: bool
    ) -> None:
        super().__init__()
        self.groups, self.attend, self.turned, self.packed = groups, attend, turned, packed
        width = groups * CHANNELS
        self.qkv = nn.ModuleList([nn.Linear(DIM, DIM + 2 * width)] if packed else map(self.linear, (DIM, width, width)))
        self.norms = nn.ModuleList(nn.RMSNorm(CHANNELS) if turned else nn.Identity() for _ in range(2))
        self.proj = nn.Linear(DIM, DIM)
        angles = torch.arange(TOKENS)[:, None] * 50 ** (-torch.arange(CHANNELS // 2) / 8)
        self.register_buffer("angles", angles.repeat(1, 2))

    @staticmethod
    def linear(width: int) -> nn.Linear:
        return nn.Linear(DIM, width)

    def turn(self, x: Tensor) -> Tensor:
        if not self.turned:
            return x
        a, b = x.chunk(2, -1)
        return x * self.angles.cos() + torch.cat([-b, a], -1) * self.angles.sin()

    def forward(self, x: Tensor) -> Tensor:
        width = self.groups * CHANNELS
        parts = self.qkv[0](x).split([DIM, width, width], -1) if self.packed else [part(x) for part in self.qkv]
        q, k, v = (part.unflatten(-1, (-1, CHANNELS)).transpose(1, 2) for part in parts)
        q, k = (self.turn(norm(part)) for norm, part in zip(self.norms, (q, k), strict=True))
        return self.proj(self.attend(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("groups", "attend", "turned", "packed"),
    [
        (2, fused, True, False),
        (1, fused, False, True),
        (2, interleaved, True, True),
        (2, expanded, True, False),
        (1, expanded, False, False),
    ],
    ids=["grouped", "multi-query", "interleaved", "expanded", "expanded-multi-query"],
)
def test_whole_and_exact(groups: int, attend: Callable, turned: bool, packed: bool) -> None:
    model = plain_model(heads=HEADS)
    for block in model.blocks:
        block.attention = Attention(groups, attend, turned, packed)
    x, tests = images(16), images(4, seed=5)
    program = export(model, (x[:1],), x, bits=8)
    (found,) = assert_whole_and_exact(program, tests)
    assert signal_to_noise(model(tests).detach(), found) > 25


def negative(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """An attention that stays in float, whose q and k have codes all the same."""
    return F.scaled_dot_product_attention(q, k, v, scale=-0.2)


def test_turned_heads_of_an_attention_in_float() -> None:
    model = plain_model(heads=4)
    model.blocks[0].attention, model.blocks[1].attention = (Attention(4, f, True, False) for f in (negative, fused))
    x, tests = images(16), images(2, seed=5)
    program = export(model, (x[:1],), x, bits=8)
    assert "it would have to be positive" in program.report.render()
    (found,) = assert_exact(program, tests)
    assert signal_to_noise(model(tests).detach(), found) > 25
