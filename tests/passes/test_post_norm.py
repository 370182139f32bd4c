"""A stream that begins behind a linear, and takes up a branch behind a LayerNorm: what passes and plans make of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conformance.cases import Random
from models import export
from packqvit_delegate import lower, runtime
from packqvit_delegate.batching import ImageAxes
from packqvit_delegate.passes.graph import find, shape_of
from packqvit_delegate.passes.hoist_token_select import hoist_token_select
from packqvit_delegate.sensitivity.roles import places

ops = torch.ops.packqvit
C = 48


class PostNorm(nn.Module):
    """x int8 [B, N, C] -> a stream of 16 bits, and its first token."""

    def __init__(self) -> None:
        super().__init__()
        r = Random(5)
        for name in ("stream", "branch"):
            self.register_buffer(f"{name}_weight", r.weight(8, C, C))
            self.register_buffer(f"{name}_bias", r.integers(-4000, 4000, (C,), torch.int32))
            self.register_buffer(f"{name}_shift", r.integers(3, 5, (C,), torch.uint8))
        for name in ("norm", "post"):
            self.register_buffer(f"{name}_weight", r.integers(-9000, 9000, (C,), torch.int16))
            self.register_buffer(f"{name}_bias", r.integers(-(1 << 20), 1 << 20, (C,), torch.int32))
        self.register_buffer("multiplier", r.integers(1 << 14, (1 << 15) - 1, (C,), torch.int16))
        self.register_buffer("factor", r.integers(0, 32767, (C,), torch.int16))

    def _linear(self, x: Tensor, name: str) -> Tensor:
        weight, bias, shift = (getattr(self, f"{name}_{part}") for part in ("weight", "bias", "shift"))
        return ops.linear(x, weight, bias, self.multiplier, shift, 8, 0, 0, 0, -32768, 32767)  # type: ignore

    def forward(self, x: Tensor) -> Tensor:
        stream = self._linear(x, "stream")
        codes = ops.layer_norm(stream, None, self.norm_weight, self.norm_bias, 9, 18, -128, 127)
        branch = self._linear(codes, "branch")
        total = ops.layer_norm_add(branch, None, self.post_weight, self.post_bias, stream, self.factor, 9, 12, 0)
        return ops.select_tokens(total, [0])  # type: ignore[no-any-return]


@pytest.fixture
def codes() -> Tensor:
    return Random(1).codes(4, 37, C)


def test_only_the_selected_token_is_computed(codes: Tensor) -> None:
    model = PostNorm()
    graph_module = hoist_token_select(export(model, codes))
    (total,) = find(graph_module, ops.layer_norm_add.default)
    assert shape_of(total) == (4, 1, C)
    assert all(shape_of(norm) == (4, 1, C) for norm in find(graph_module, ops.layer_norm.default))
    assert torch.equal(graph_module(codes), model(codes))


def test_the_sum_is_a_stream_of_any_number_of_images(codes: Tensor) -> None:
    graph_module = export(PostNorm(), codes[:1])
    assert ImageAxes(graph_module).obstacle is None
    (total,) = find(graph_module, ops.layer_norm_add.default)
    assert places(graph_module)[total].role == "stream 2"


def test_native_code_gives_the_same_bits(codes: Tensor) -> None:
    model = PostNorm()
    program = lower(torch.export.export(model, (codes,)).module(), (codes,))
    assert program.report.is_whole, program.report.render()
    (found,) = runtime.load(program.buffer).run(codes)
    expected = model(codes)
    assert expected.dtype == torch.int16 and len(expected.unique()) > 50
    assert torch.equal(found, expected)
