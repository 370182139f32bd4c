"""Tokens inside of tokens, as of TNT: one value is read in short rows, and in rows of several side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import images, randomize
from packqvit_delegate import export
from packqvit_delegate.passes.graph import find
from programs import assert_whole_and_exact, signal_to_noise

INNER, OUTER, GROUPS, PARTS = 12, 48, 16, 4


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Nested(nn.Module):
    """Four tokens of 12 channels in each of 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.position = nn.Conv2d(3, INNER, 4, 4), nn.Parameter(torch.zeros(1, GROUPS * PARTS, INNER))
        self.first, self.first_norm = nn.Linear(OUTER, OUTER), nn.LayerNorm(OUTER)
        self.inner, self.outer = (nn.ModuleList(Block(d, h) for _ in range(2)) for d, h in ((INNER, 2), (OUTER, 3)))
        self.norms = nn.ModuleList(nn.LayerNorm(OUTER) for _ in range(2))
        self.joins = nn.ModuleList(nn.Linear(OUTER, OUTER) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(OUTER), nn.Linear(OUTER, 10)

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        inner = tokens.reshape(batch, 4, 2, 4, 2, INNER).transpose(2, 3).reshape(batch * GROUPS, PARTS, INNER)
        outer = self.first(self.first_norm(inner.reshape(batch, GROUPS, OUTER)))
        for of_inner, of_outer, norm, join in zip(self.inner, self.outer, self.norms, self.joins, strict=True):
            inner = of_inner(inner)
            outer = of_outer(outer + join(norm(inner.reshape(batch, GROUPS, OUTER))))
        return self.head(self.norm(outer).mean(1))


def test_one_call() -> None:
    model, x, tests = randomize(Nested()), images(16), images(4, seed=5)
    program = export(model, (x[:1],), x, bits=8)
    (found,) = assert_whole_and_exact(program, tests)
    assert signal_to_noise(model(tests).detach(), found) > 25
    tokens = find(program.integer_module, torch.ops.packqvit.select_tokens.default)
    assert {node.meta["val"].shape[-1] for node in tokens} <= {INNER, OUTER}
