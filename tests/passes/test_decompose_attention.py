from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from graphs import Lambda, operators, run_pass, tensor
from models import export
from packqvit_delegate.passes import canonicalize, decompose_attention, match_attention, remove_no_ops
from packqvit_delegate.passes.graph import find
from packqvit_delegate.passes.reasons import reason_of

B, N, H, D = 2, 5, 3, 4
C = H * D
aten = torch.ops.aten


def decompose(graph_module: GraphModule) -> GraphModule:
    return decompose_attention(remove_no_ops(graph_module))


def model(function: Callable[..., Any], merge: bool = True, **state: Any) -> Lambda:
    """Attention over q, k and v [B, H, N, D] of three linears; the heads are merged behind it."""

    def forward(m: nn.Module, x: Tensor) -> Any:
        q, k, v = (linear(x).view(x.shape[0], x.shape[1], H, D).transpose(1, 2) for linear in (m.q, m.k, m.v))
        o = function(m, q, k, v)
        return m.o(o.transpose(1, 2).reshape(x.shape)) if merge else o

    torch.manual_seed(0)
    linears = {name: nn.Linear(C, C) for name in "qkvo"}
    return Lambda(forward, **linears, **state)


def attentions(graph_module: GraphModule) -> list[Any]:
    found = [match_attention(node) for node in graph_module.graph.nodes if node.target is aten.softmax.int]
    return [attention for attention in found if attention is not None]


def folded(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (part.reshape(-1, N, D) for part in (q, k, v))
    return (torch.bmm(q, k.transpose(1, 2)) * 0.5).softmax(-1).bmm(v).view(-1, H, N, D)


def folded_scores(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.bmm(q.reshape(-1, N, D), k.reshape(-1, N, D).mT).view(-1, H, N, N)
    return ((scores + m.bias) * 0.5).softmax(3) @ v


SCALED: dict[str, tuple[Callable[..., Tensor], float, bool]] = {
    "sdpa": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v), 0.5, False),
    "sdpa_scale": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.1), 0.1, False),
    "sdpa_mask": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.bias), 0.5, True),
    "sdpa_bool": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.keep), 0.5, True),
    "sdpa_causal": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), 0.5, True),
    "masked_fill": (lambda m, q, k, v: (q @ k.mT * 0.5).masked_fill(m.hidden, -math.inf).softmax(-1) @ v, 0.5, True),
    "filled_scaled": (lambda m, q, k, v: ((q @ k.mT).masked_fill(m.hidden, -1e4) * 0.5).softmax(-1) @ v, 0.5, True),
    "filled_nowhere": (lambda m, q, k, v: (q @ k.mT).masked_fill(m.nothing, -1e9).softmax(-1) @ v, 1.0, False),
    "where": (lambda m, q, k, v: torch.where(m.keep, q @ k.mT * 0.5, -1e9).softmax(-1) @ v, 0.5, True),
    "where_not": (lambda m, q, k, v: torch.where(m.hidden, m.lowest, q @ k.mT + m.bias).softmax(-1) @ v, 1.0, True),
    "sdpa_true": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.keep_all), 0.5, False),
    "query": (lambda m, q, k, v: ((q * 0.3) @ k.mT).softmax(-1) @ v, 0.3, False),
    "both": (lambda m, q, k, v: ((q / 2) @ (0.5 * k).mT).softmax(-1) @ v, 0.25, False),
    "one": (lambda m, q, k, v: (q @ k.mT).softmax(-1) @ v, 1.0, False),
    "divided": (lambda m, q, k, v: (q @ k.mT / math.sqrt(D)).softmax(-1) @ v, 0.5, False),
    "constant": (lambda m, q, k, v: (q @ k.mT * m.scale).softmax(-1) @ v, 0.75, False),
    "bias": (lambda m, q, k, v: (m.bias + q @ k.mT * 0.5).softmax(-1) @ v, 0.5, True),
    "biases": (lambda m, q, k, v: ((q @ k.mT + m.bias) * 0.5 + m.row).softmax(-1) @ v, 0.5, True),
    "_softmax": (lambda m, q, k, v: torch._softmax(q @ k.mT * 0.5, -1, False) @ v, 0.5, False),
    "folded": (folded, 0.5, False),
    "folded_scores": (folded_scores, 0.5, True),
    "baddbmm": (
        lambda m, q, k, v: (
            torch.baddbmm(m.row, q.reshape(-1, N, D), k.reshape(-1, N, D).mT, beta=2, alpha=0.5).softmax(-1)
            @ v.reshape(-1, N, D)
        ).view(-1, H, N, D),
        0.5,
        True,
    ),
}


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("name", SCALED)
def test_form(name: str, batch: int) -> None:
    function, scale, bias = SCALED[name]
    keep = torch.ones(N, N, dtype=torch.bool).tril()
    state = {"bias": tensor(H, N, N), "row": tensor(N), "keep": keep, "keep_all": keep | True}
    state |= {"hidden": ~keep, "nothing": ~(keep | True), "lowest": torch.tensor(torch.finfo(torch.float32).min)}
    built = model(function, scale=torch.tensor(0.75), **state)
    graph_module = run_pass(decompose, built, tensor(batch, N, C))
    (attention,) = attentions(graph_module)
    assert attention.scale == pytest.approx(scale) and attention.heads == H
    assert (attention.bias is not None) == bias
    counts = operators(graph_module)
    assert counts["mul.Tensor"] == 1 and counts["add.Tensor"] == bias and counts["reshape.default"] == 4


def test_scores_that_are_set_to_what_a_softmax_sees_are_refused() -> None:
    built = model(
        lambda m, q, k, v: (q @ k.mT).masked_fill(m.hidden, -3.0).softmax(-1) @ v, hidden=torch.eye(N, dtype=torch.bool)
    )
    graph_module = run_pass(decompose, built, tensor(B, N, C))
    assert not attentions(graph_module)
    (softmax,) = find(graph_module, aten.softmax.int)
    assert "set to -3 in some places: a mask would have to set them below -80" in str(reason_of(softmax))


def test_masked_scores_are_finite() -> None:
    built = model(
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, m.mask),
        mask=torch.zeros(N, N).masked_fill(torch.ones(N, N).triu(1).bool(), -math.inf),
    )
    graph_module = run_pass(decompose, built, tensor(B, N, C))
    (bias,) = graph_module.buffers()
    assert bias.shape == (1, 1, N, N) and bool(bias.isfinite().all())


def test_key_that_comes_transposed() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q = m.q(x).reshape(B, N, H, D).permute(0, 2, 1, 3)
        k = m.k(x).reshape(B, N, H, D).permute(0, 2, 3, 1)
        v = m.v(x).reshape(B, N, H, D).permute(0, 2, 1, 3)
        return m.o((q @ k).softmax(-1).matmul(v).permute(0, 2, 1, 3).flatten(2))

    built = Lambda(forward, **{name: nn.Linear(C, C) for name in "qkvo"})
    assert len(attentions(run_pass(decompose, built, tensor(B, N, C)))) == 1


def test_interleaved_heads() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = (linear(x).view(B, N, D, H).permute(0, 3, 1, 2) for linear in (m.q, m.k, m.v))
        return m.o(F.scaled_dot_product_attention(q, k, v).permute(0, 2, 3, 1).reshape(B, N, C))

    built = Lambda(forward, **{name: nn.Linear(C, C) for name in "qkvo"})
    assert len(attentions(run_pass(decompose, built, tensor(B, N, C)))) == 1


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead_attention(need_weights: bool, batch_first: bool) -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        y = x if batch_first else x.transpose(0, 1)
        y = m.attention(y, y, y, need_weights=need_weights)[0]
        return x + (y if batch_first else y.transpose(0, 1))

    built = Lambda(forward, attention=nn.MultiheadAttention(C, H, batch_first=batch_first).eval())
    graph_module = run_pass(canonicalize, built, tensor(B, N, C))
    assert len(attentions(graph_module)) == 1
    assert operators(graph_module)["reshape.default"] == 4 and operators(graph_module)["transpose.int"] == 1


def test_transformer_encoder_layer() -> None:
    layer = nn.TransformerEncoderLayer(C, H, 2 * C, activation="gelu", batch_first=True, norm_first=True).eval()
    graph_module = run_pass(canonicalize, Lambda(lambda m, x: m.layer(x), layer=layer), tensor(B, N, C))
    assert len(attentions(graph_module)) == 1 and operators(graph_module)["transpose.int"] == 1


def pooled(function: Callable[..., Any], **state: Any) -> Lambda:
    """Attention of q, whatever the function makes of buffers, over k and v [B, H, N, D] of two linears."""

    def forward(m: nn.Module, x: Tensor) -> Any:
        k, v = (linear(x).view(x.shape[0], x.shape[1], H, D).transpose(1, 2) for linear in (m.k, m.v))
        return m.o(function(m, x, k, v).transpose(1, 2).flatten(2))

    return Lambda(forward, **{name: nn.Linear(C, C) for name in "kvo"}, **state)


POOLED: dict[str, tuple[Callable[..., Tensor], float]] = {
    "sdpa": (lambda m, x, k, v: F.scaled_dot_product_attention(m.query.expand(len(x), -1, -1, -1), k, v), 0.5),
    "broadcast": (lambda m, x, k, v: (m.query @ k.mT * 0.3).softmax(-1) @ v, 0.3),
    "of a linear": (
        lambda m, x, k, v: F.scaled_dot_product_attention(
            m.q(m.tokens).view(1, 2, H, D).transpose(1, 2).repeat(len(x), 1, 1, 1), k, v
        ),
        0.5,
    ),
    "folded": (
        lambda m, x, k, v: (
            torch.bmm(m.query.expand(len(x), -1, -1, -1).reshape(-1, 2, D), k.reshape(-1, N, D).mT).softmax(-1)
            @ v.reshape(-1, N, D)
        ).view(-1, H, 2, D),
        1.0,
    ),
    "factors of heads": (lambda m, x, k, v: ((m.query * 0.1) @ k.mT * m.by_head).softmax(-1) @ v, 2.0),
    "masked": (lambda m, x, k, v: (m.query @ k.mT).masked_fill(m.hidden, -math.inf).softmax(-1) @ v, 1.0),
}


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("name", POOLED)
def test_constant_queries(name: str, batch: int) -> None:
    function, scale = POOLED[name]
    state = {"query": tensor(1, H, 2, D), "tokens": tensor(1, 2, C), "q": nn.Linear(C, C)}
    by_head, hidden = torch.tensor([1.0, -2.0, 0.5]).reshape(H, 1, 1), torch.eye(N, dtype=torch.bool)[1:3]
    built = pooled(function, by_head=by_head, hidden=hidden, **state)
    graph_module = run_pass(canonicalize, built, tensor(batch, N, C))
    (attention,) = attentions(graph_module)
    assert attention.has_constant_query and attention.query_norm is None and attention.heads == H
    assert attention.query.op == "get_attr" and attention.query.meta["val"].shape == (1, H, 2, D)
    assert attention.scale == pytest.approx(scale) and attention.softmax.meta["val"].shape == (batch, H, 2, N)


def test_parameters_in_queries_learn() -> None:
    built = pooled(
        lambda m, x, k, v: F.scaled_dot_product_attention(m.query.expand(len(x), -1, -1, -1), k, v),
        query=nn.Parameter(tensor(1, H, 1, D)),
    )
    (attention,) = attentions(graph_module := run_pass(canonicalize, built, tensor(B, N, C)))
    assert dict(graph_module.named_parameters())[str(attention.query.target)].requires_grad


def cosine(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
    return (scores * m.by_head.clamp(max=4.6).exp()).softmax(-1) @ v


def cosine_spelled_out(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q = q / (q * q).sum(-1, keepdim=True).sqrt().clamp(min=1e-6) * m.by_head.exp()
    k = k * torch.rsqrt(k.pow(2).sum(3, True) + 1e-9)
    return (q @ k.mT).softmax(-1) @ v


def query_key_norm(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(m.q_norm(q), m.k_norm(k), v)


def scale_by_head(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * m.by_head).softmax(-1) @ v


class RMSNorm(nn.Module):
    """As language models spell it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensor(D))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


RMS, LAYER = torch.ops.aten.rms_norm.default, torch.ops.aten.layer_norm.default
NORMED: dict[str, tuple[Callable[..., Tensor], dict[str, Any], Any, bool]] = {
    "cosine": (cosine, {"by_head": tensor(H, 1, 1)}, RMS, True),
    "cosine_alike": (cosine, {"by_head": torch.full((H, 1, 1), 2.0)}, RMS, False),
    "cosine_spelled_out": (cosine_spelled_out, {"by_head": tensor(H, 1, 1)}, RMS, True),
    "layer_norm": (query_key_norm, {"q_norm": nn.LayerNorm(D), "k_norm": nn.LayerNorm(D)}, LAYER, False),
    "rms_norm": (query_key_norm, {"q_norm": nn.RMSNorm(D), "k_norm": nn.RMSNorm(D)}, RMS, False),
    "rms_norm_spelled_out": (query_key_norm, {"q_norm": RMSNorm(), "k_norm": RMSNorm()}, RMS, False),
}


@pytest.mark.parametrize("name", NORMED)
def test_norms_of_query_and_key(name: str) -> None:
    function, members, norm, has_factor = NORMED[name]
    (attention,) = attentions(run_pass(canonicalize, model(function, True, **members), tensor(B, N, C)))
    assert attention.query_norm is not None and attention.key_norm is not None
    assert attention.query_norm.norm.target is norm is attention.key_norm.norm.target
    assert (attention.query_norm.factor is not None) == has_factor


def test_factors_of_heads_go_into_the_linear() -> None:
    built = model(scale_by_head, True, by_head=tensor(H, 1, 1))
    (attention,) = attentions(run_pass(canonicalize, built, tensor(B, N, C)))
    assert attention.query_norm is None


def from_input(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(q @ k.mT).relu())


def normalised_tokens(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(F.layer_norm(q.mT, (N,)).mT, k, v)


def probabilities_returned(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Any:
    p = (q @ k.mT).softmax(-1)
    return p @ v, p


def over_queries(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-2) @ v


def nothing_visible(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, torch.zeros(N, N, dtype=torch.bool))


def scale_by_key(m: nn.Module, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * m.by_key).softmax(-1) @ v


LEFT_ALONE: dict[str, tuple[Callable[..., Any], bool]] = {
    "mask_from_input": (from_input, True),
    "normalised_tokens": (normalised_tokens, True),
    "probabilities_returned": (probabilities_returned, False),
    "softmax_over_queries": (over_queries, True),
    "fully_masked_row": (nothing_visible, True),
    "scale_by_key": (scale_by_key, True),
    "heads_not_merged": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v).relu(), False),
    "own_queries": (lambda m, q, k, v: F.scaled_dot_product_attention(m.own, k, v), True),
    "constant_keys": (lambda m, q, k, v: F.scaled_dot_product_attention(q, m.own, v), True),
    "scaled_value": (lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v * 2), True),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    function, merge = LEFT_ALONE[name]
    built = model(function, merge, by_key=tensor(N), own=tensor(B, H, N, D))
    before = operators(remove_no_ops(export(built, tensor(B, N, C))))
    graph_module = run_pass(decompose, built, tensor(B, N, C))
    assert operators(graph_module) == before and not attentions(graph_module)
