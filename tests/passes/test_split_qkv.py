from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import split_qkv

B, N, H, D = 2, 5, 2, 4


def reshape(y: Tensor) -> Any:
    return y.reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)


def indexed(y: Tensor) -> Any:
    y = y.reshape(B, N, 3, H, D).permute(2, 0, 3, 1, 4)
    return y[0], y[1], y[2]


def chunk(y: Tensor) -> Any:
    return [part.view(B, N, H, D).transpose(1, 2) for part in y.chunk(3, -1)]


def split(y: Tensor) -> Any:
    return [part.view(B, N, H, D).transpose(1, 2) for part in y.split([H * D] * 3, -1)]


def sliced(y: Tensor) -> Any:
    return [y[..., i * H * D : (i + 1) * H * D].view(B, N, H, D).transpose(1, 2) for i in range(3)]


def heads_first(y: Tensor) -> Any:
    return y.view(B, N, H, 3 * D).transpose(1, 2).chunk(3, -1)


def channels_first(y: Tensor) -> Any:
    return y.view(B, N, D, H, 3).permute(4, 0, 3, 1, 2).unbind(0)


LAYOUTS = [reshape, indexed, chunk, split, sliced, heads_first, channels_first]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_split(layout: Callable[[Tensor], Any], bias: bool) -> None:
    model = Lambda(
        lambda m, x: F.scaled_dot_product_attention(*layout(m.qkv(x))), qkv=nn.Linear(8, 3 * H * D, bias=bias)
    )
    graph_module = run_pass(split_qkv, model, tensor(B, N, 8), atol=1e-6)
    counts = operators(graph_module)
    assert counts == {
        "linear.default": 3,
        "reshape.default": 3,
        "permute.default": 3,
        "scaled_dot_product_attention.default": 1,
    }
    shapes = {tuple(parameter.shape) for parameter in graph_module.parameters()}
    assert shapes == ({(8, 8), (8,)} if bias else {(8, 8)})


def test_transposed_key_and_scaled_query() -> None:
    def attend(m: nn.Module, x: Tensor) -> Tensor:
        q, k, v = reshape(m.qkv(x))
        return ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v

    counts = operators(run_pass(split_qkv, Lambda(attend, qkv=nn.Linear(8, 24)), tensor(B, N, 8)))
    assert counts["linear.default"] == 3 and counts["transpose.int"] == 1


def test_key_and_value_alone() -> None:
    def attend(m: nn.Module, x: Tensor) -> Tensor:
        k, v = m.kv(x).view(B, N, 2, H, D).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(m.q(x).view(B, N, H, D).transpose(1, 2), k, v)

    counts = operators(run_pass(split_qkv, Lambda(attend, q=nn.Linear(8, 8), kv=nn.Linear(8, 16)), tensor(B, N, 8)))
    assert counts["linear.default"] == 3


def used_elsewhere(m: nn.Module, x: Tensor) -> Any:
    y = m.qkv(x)
    return F.scaled_dot_product_attention(*chunk(y)), y.relu()


def returned(m: nn.Module, x: Tensor) -> Any:
    y = m.qkv(x)
    return F.scaled_dot_product_attention(*chunk(y)), y


def overlapping(m: nn.Module, x: Tensor) -> Any:
    y = m.qkv(x)
    q, k, v = (y[..., i : i + 8].view(B, N, H, D).transpose(1, 2) for i in (0, 4, 16))
    return F.scaled_dot_product_attention(q, k, v)


def tokens_mixed(m: nn.Module, x: Tensor) -> Any:
    return F.scaled_dot_product_attention(*m.qkv(x).reshape(B, 3, H, N, D).unbind(1))


@pytest.mark.parametrize("function", [used_elsewhere, returned, overlapping, tokens_mixed])
def test_left_alone(function: Callable[[nn.Module, Tensor], Any]) -> None:
    graph_module = run_pass(split_qkv, Lambda(function, qkv=nn.Linear(8, 24)), tensor(B, N, 8))
    assert operators(graph_module)["linear.default"] == 1
    assert [tuple(parameter.shape) for parameter in graph_module.parameters()] == [(24, 8), (24,)]


def test_the_fused_weight_is_gone() -> None:
    model = Lambda(lambda m, x: F.scaled_dot_product_attention(*chunk(m.qkv(x))), qkv=nn.Linear(8, 24))
    graph_module = run_pass(split_qkv, model, tensor(B, N, 8))
    gathered = torch.cat([parameter for parameter in graph_module.parameters() if parameter.dim() == 2])
    assert torch.equal(gathered, model.qkv.weight)


def test_a_gate_and_what_it_multiplies() -> None:
    def gated(m: nn.Module, x: Tensor) -> Any:
        left, right = m.qkv(x).chunk(2, -1)
        return F.silu(left) * right

    graph_module = run_pass(split_qkv, Lambda(gated, qkv=nn.Linear(8, 24)), tensor(B, N, 8))
    assert operators(graph_module)["linear.default"] == 2 and "chunk.default" not in operators(graph_module)
