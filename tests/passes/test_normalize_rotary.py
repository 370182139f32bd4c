"""Rotary positions in every spelling: one operator, the same function, and attention behind it that is recognised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import export
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.graph import aten, constant, find
from packqvit_delegate.passes.patterns import attentions

B, N, H, D = 2, 6, 3, 8
rotary = torch.ops.packqvit.rotary.default
generator = torch.Generator().manual_seed(0)
angles = 3 * torch.rand(N, D // 2, generator=generator)
HALVES = torch.cat([angles, angles], -1)
NEIGHBOURS = angles.repeat_interleave(2, -1)


def halves(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * HALVES.cos() + torch.cat([-b, a], -1) * HALVES.sin()


def neighbours(x: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * NEIGHBOURS.cos() + turned * NEIGHBOURS.sin()


def by_coordinates(x: Tensor) -> Tensor:
    """Pairs apart, put together again."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)


def behind_the_class_token(x: Tensor) -> Tensor:
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    rows = x[:, :, 1:] * NEIGHBOURS[1:].cos() + turned[:, :, 1:] * NEIGHBOURS[1:].sin()
    return torch.cat([x[:, :, :1], rows], 2)


def of_some_channels(x: Tensor) -> Tensor:
    """The first half of a head, as in models with partial rotary factors."""
    a, rest = x.split(D // 2, -1)
    cos, sin = HALVES[:, : D // 2].cos(), HALVES[:, : D // 2].sin()
    return torch.cat([a * cos + torch.cat([-a[..., D // 4 :], a[..., : D // 4]], -1) * sin, rest], -1)


def of_each_head(x: Tensor) -> Tensor:
    """Frequencies that heads have of their own."""
    by_head = torch.stack([HALVES * (1 + head) for head in range(H)])
    a, b = x.chunk(2, -1)
    return x * by_head.cos() + torch.cat([-b, a], -1) * by_head.sin()


class Attention(nn.Module):
    def __init__(self, rotate: Callable[[Tensor], Tensor], packed: bool, norm: bool = False) -> None:
        super().__init__()
        self.rotate, self.packed = rotate, packed
        self.qkv = nn.Linear(H * D, 3 * H * D)
        self.q, self.k, self.v = (nn.Linear(H * D, H * D) for _ in range(3))
        self.norm = nn.LayerNorm(D) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.packed:
            q, k, v = self.qkv(x).reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (linear(x).reshape(B, N, H, D).transpose(1, 2) for linear in (self.q, self.k, self.v))
        q, k = self.rotate(self.norm(q)), self.rotate(self.norm(k))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, H * D)


SPELLINGS = [halves, neighbours, by_coordinates, behind_the_class_token, of_some_channels, of_each_head]


@pytest.mark.parametrize("norm", [False, True], ids=["plain", "norm"])
@pytest.mark.parametrize("packed", [False, True], ids=["linears", "packed"])
@pytest.mark.parametrize("rotate", SPELLINGS, ids=lambda spelling: spelling.__name__)
def test_spellings(rotate: Callable[[Tensor], Tensor], packed: bool, norm: bool) -> None:
    model, x = Attention(rotate, packed, norm), torch.randn(B, N, H * D, generator=generator)
    expected = model(x)
    graph = canonicalize(export(model, x))
    torch.testing.assert_close(graph(x), expected, atol=1e-5, rtol=1e-5)
    (attention,) = attentions(graph)
    assert attention.query_rotary is not None and attention.key_rotary is not None
    assert (attention.query_norm is not None) == (attention.key_norm is not None) == norm
    assert len(find(graph, rotary)) == 2 and not find(graph, aten.neg.default, aten.cat.default, aten.stack.default)
    shapes = {tuple(constant(graph, node.args[1]).shape) for node in find(graph, rotary)}  # type: ignore[arg-type]
    assert shapes == {(N, H if rotate is of_each_head else 1, D)}


def moved_tokens(x: Tensor) -> Tensor:
    return x + x.roll(1, 2)


def of_three(x: Tensor) -> Tensor:
    return x + 0.5 * x.roll(1, -1) + 0.25 * x.roll(2, -1)


def chain(x: Tensor) -> Tensor:
    """Two of a head, but not in pairs."""
    return x + 0.5 * x.roll(1, -1)


@pytest.mark.parametrize("mix", [moved_tokens, of_three, chain], ids=lambda mix: mix.__name__)
def test_other_sums_are_no_rotations(mix: Callable[[Tensor], Tensor]) -> None:
    graph = canonicalize(export(Attention(mix, False), torch.randn(B, N, H * D)))
    assert not find(graph, rotary) and not list(attentions(graph))
