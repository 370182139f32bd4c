"""Relative positions in every spelling: one operator, the same function, and what is none is told."""

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
from packqvit_delegate.passes.reasons import reason_of

B, H, D, ROWS, COLUMNS = 2, 3, 8, 3, 4
N = ROWS * COLUMNS
relative_bias = torch.ops.packqvit.relative_bias.default


def _distances(size: int) -> Tensor:
    """Of keys from queries, from 0 on; models count either way round."""
    places = torch.arange(size)
    return places[:, None] - places + size - 1


class Attention(nn.Module):
    """Of 3 x 4 tokens; `attend` takes the module and q, k and v [B, H, N, D]."""

    def __init__(self, attend: Callable[..., Tensor], packed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend, self.packed = attend, packed
        self.qkv = nn.Linear(H * D, 3 * H * D)
        self.q, self.k, self.v, self.o = (nn.Linear(H * D, H * D) for _ in range(4))
        self.by_row = nn.Parameter(torch.randn(2 * ROWS - 1, D))
        self.by_column = nn.Parameter(torch.randn(2 * COLUMNS - 1, D))
        self.of_line = nn.Parameter(torch.randn(2 * N - 1, D))
        self.of_heads = nn.Parameter(torch.randn(H, 2 * ROWS - 1, D))
        self.places = nn.Parameter(torch.randn(N, D))
        self.register_buffer("bias", torch.randn(H, N, N))

    def forward(self, x: Tensor) -> Tensor:
        if self.packed:
            q, k, v = self.qkv(x).reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = (linear(x).reshape(B, N, H, D).transpose(1, 2) for linear in (self.q, self.k, self.v))
        return self.o(self.attend(self, q, k, v).transpose(1, 2).reshape(B, N, H * D))


def _products(m: Attention, q: Tensor) -> tuple[Tensor, Tensor]:
    """Of queries [..., N, D]: with rows, [.., rows, columns, rows, 1], and columns, [.., rows, columns, 1, columns]."""
    maps = q.reshape(-1, ROWS, COLUMNS, D)
    by_row = torch.einsum("bhwc,hkc->bhwk", maps, m.by_row[_distances(ROWS)])
    by_column = torch.einsum("bhwc,wkc->bhwk", maps, m.by_column[_distances(COLUMNS)])
    return by_row[:, :, :, :, None], by_column[:, :, :, None, :]


def _mask(m: Attention, q: Tensor) -> Tensor:
    by_row, by_column = _products(m, q)
    return (by_row + by_column).reshape(-1, N, N)


def fused(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in timm: heads in the batch."""
    q, k, v = (part.reshape(-1, N, D) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(m, q)).reshape(B, H, N, D)


def scaled_before(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in Hugging Face's eager SAM: the mask is of queries without their factor."""
    scores = (q * 0.3) @ k.mT
    return (scores + _mask(m, q).reshape_as(scores)).softmax(-1) @ v


def scaled_after(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((_mask(m, q).reshape(B, H, N, N) + q @ k.mT) * 0.3).softmax(-1) @ v


def on_a_map(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in ViTDet: two sums of scores that are cut up into rows and columns."""
    by_row, by_column = _products(m, q)
    scores = (q * 0.3 @ k.mT).reshape(-1, ROWS, COLUMNS, ROWS, COLUMNS)
    return (scores + by_row + by_column).reshape(B, H, N, N).softmax(-1) @ v


def matrices(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    maps = q.unflatten(2, (ROWS, COLUMNS))
    by_row = maps @ m.by_row[_distances(ROWS)].mT
    by_column = (maps.transpose(2, 3) @ m.by_column[_distances(COLUMNS)].mT).transpose(2, 3)
    mask = (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(4).flatten(2, 3)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def gathered(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All distances first, and then of each query those that it needs; and a constant mask."""
    by_row, by_column = q @ m.by_row.T, q @ m.by_column.T
    row, column = _distances(ROWS).repeat_interleave(COLUMNS, 0), _distances(COLUMNS).repeat(ROWS, 1)
    by_row = by_row.gather(-1, row.expand(B, H, N, ROWS))
    by_column = by_column.gather(-1, column.expand(B, H, N, COLUMNS))
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=(by_row[..., None] + by_column[..., None, :]).flatten(3) + m.bias
    )


def beside_a_bias(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT * 0.3 + m.bias
    return (scores + _mask(m, q).view_as(scores)).softmax(-1) @ v


def onto_products(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.baddbmm(_mask(m, q), q.reshape(-1, N, D), k.reshape(-1, N, D).mT, beta=0.5, alpha=0.3)
    return scores.reshape(B, H, N, N).softmax(-1) @ v


def of_normalised(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return fused(m, F.layer_norm(q, (D,)), F.layer_norm(k, (D,)), v)


def of_heads(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each head has numbers of its own, for rows alone."""
    mask = torch.einsum("bnhwc,nhkc->bnhwk", q.unflatten(2, (ROWS, COLUMNS)), m.of_heads[:, _distances(ROWS)])
    mask = mask.unsqueeze(-1).expand(B, H, ROWS, COLUMNS, ROWS, COLUMNS)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.reshape(B, H, N, N))


def on_a_line(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As in BERT with relative keys."""
    added = torch.einsum("bhld,lrd->bhlr", q, m.of_line[_distances(N)])
    return ((q @ k.mT + added) / 2).softmax(-1) @ v


def factors_of_heads(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    factors = torch.tensor([1.0, -0.5, 2.0]).reshape(H, 1, 1)
    return ((q @ k.mT + _mask(m, q).reshape(B, H, N, N)) * factors).softmax(-1) @ v


SPELLINGS = [
    fused,
    scaled_before,
    scaled_after,
    on_a_map,
    matrices,
    gathered,
    beside_a_bias,
    onto_products,
    of_normalised,
    of_heads,
    on_a_line,
    factors_of_heads,
]


@pytest.mark.parametrize("packed", [False, True], ids=["linears", "packed"])
@pytest.mark.parametrize("attend", SPELLINGS, ids=lambda attend: attend.__name__)
def test_spellings(attend: Callable[..., Tensor], packed: bool) -> None:
    model, x = Attention(attend, packed), torch.randn(B, N, H * D)
    expected = model(x).detach()
    graph = canonicalize(export(model, x))
    torch.testing.assert_close(graph(x).detach(), expected, atol=1e-5, rtol=1e-5)
    (attention,) = attentions(graph)
    assert attention.relative is not None
    q, numbers, *grid = attention.relative.args
    assert q is attention.scores.args[0] and grid == ([1, N] if attend is on_a_line else [ROWS, COLUMNS])
    has_heads = attend in (of_heads, factors_of_heads)
    distances = 2 * (grid[0] + grid[1]) - 2  # type: ignore[operator]
    assert constant(graph, numbers).shape == (H if has_heads else 1, distances, D)  # type: ignore[arg-type]
    assert (attention.bias is not None) == (attend in (gathered, beside_a_bias))
    assert not find(graph, aten.einsum.default, aten.scaled_dot_product_attention.default)


def test_what_all_keys_of_a_query_have_is_left_out() -> None:
    """So that numbers are as small as they may be: they share one grid of 8 bits."""

    plain, shifted = Attention(fused), Attention(fused)
    with torch.no_grad():
        shifted.by_row += 100 * torch.randn(D)
    numbers = []
    for model in (plain, shifted):
        graph = canonicalize(export(model, torch.randn(B, N, H * D)))
        (attention,) = attentions(graph)
        numbers.append(constant(graph, attention.relative.args[1]))  # type: ignore[union-attr, arg-type]
    torch.testing.assert_close(*numbers, atol=1e-3, rtol=0)
    by_row, by_column = numbers[0].split([2 * ROWS - 1, 2 * COLUMNS - 1], 1)
    for part in (by_row, by_column):
        torch.testing.assert_close(part.amax(1), -part.amin(1))


def squares(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(m, q * q).reshape(B, H, N, N))


def bent(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(m, q).tanh().reshape(B, H, N, N))


def of_keys(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(m, k).reshape(B, H, N, N))


def of_places(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=q @ m.places.T)


def of_the_next_query(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(m, q.roll(1, 2)).reshape(B, H, N, N))


def of_another_head(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.mT) + _mask(m, q.flip(1)).reshape(B, H, N, N)).softmax(-1) @ v


def seen(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(m, q).reshape(B, H, N, N) > -9)


REFUSED = [
    (
        squares,
        "mask comes from aten.mul at run time: it would have to be constant, or a linear function of its own queries",
    ),
    (bent, "mask comes from aten.tanh"),
    (of_keys, "mask comes from aten.linear (k)"),
    (of_places, "no relative position: it would have to depend on by how many rows and columns of a map a key is away"),
    (of_the_next_query, "no relative position: each query would have to add products with its own channels"),
    (of_another_head, "no relative position: each query would have to add products with its own channels"),
    (seen, "mask comes from aten.gt"),
]


@pytest.mark.parametrize(("attend", "reason"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_other_functions_are_refused(attend: Callable[..., Tensor], reason: str) -> None:
    graph = canonicalize(export(Attention(attend), torch.randn(B, N, H * D)))
    assert not list(attentions(graph)) and not find(graph, relative_bias)
    assert any(reason in (found or "") for found in map(reason_of, graph.graph.nodes)), [
        found for found in map(reason_of, graph.graph.nodes) if found
    ]


def test_two_computed_values_are_told() -> None:
    """Neither is scores."""

    def added(m: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (_mask(m, q) + _mask(m, k)).reshape(B, H, N, N).softmax(-1) @ v

    graph = canonicalize(export(Attention(added), torch.randn(B, N, H * D)))
    (softmax,) = find(graph, aten.softmax.int)
    assert "are added before the softmax" in str(reason_of(softmax)) and not list(attentions(graph))


def test_there_are_as_many_queries_as_keys() -> None:
    class Few(Attention):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (linear(x).reshape(B, N, H, D).transpose(1, 2) for linear in (self.q, self.k, self.v))
            q = self.q(x[:, :6]).reshape(B, 6, H, D).transpose(1, 2)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=q @ self.places.T)
            return self.o(attended.transpose(1, 2).reshape(B, 6, H * D))

    graph = canonicalize(export(Few(fused), torch.randn(B, N, H * D)))
    (attention,) = find(graph, aten.scaled_dot_product_attention.default)
    assert "is added to the scores of 6 queries for 12 keys" in str(reason_of(attention))
