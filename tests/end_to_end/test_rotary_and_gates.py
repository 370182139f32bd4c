"""Small models with rotary positions, gated MLPs and parallel branches: one call, the bits of the eager graph."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import images, randomize
from packqvit_delegate import QuantizationConfig, export, qat, runtime
from packqvit_delegate.passes.graph import find
from packqvit_delegate.passes.hoist_token_select import hoist_token_select
from packqvit_delegate.sensitivity.roles import places
from programs import assert_exact, assert_whole_and_exact, signal_to_noise

ops = torch.ops.packqvit
DIM, HEADS, TOKENS = 48, 3, 17


class Attention(nn.Module):
    """Rotary positions of the patches, not of the class token."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.q_norm, self.k_norm = (nn.LayerNorm(DIM // HEADS) if norm else nn.Identity() for _ in range(2))
        angles = torch.arange(TOKENS - 1)[:, None] * 50 ** (-torch.arange(DIM // HEADS // 2) / 8)
        self.register_buffer("angles", angles.repeat(1, 2))

    def rotate(self, x: Tensor) -> Tensor:
        patches = x[:, :, 1:]
        a, b = patches.chunk(2, -1)
        turned = torch.cat([-b, a], -1)
        return torch.cat([x[:, :, :1], patches * self.angles.cos() + turned * self.angles.sin()], 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    def __init__(self, packed: bool, norm: bool) -> None:
        super().__init__()
        self.packed = packed
        self.gate, self.up = nn.Linear(DIM, (1 + packed) * 64), nn.Linear(DIM, 64)
        self.norm, self.down = nn.LayerNorm(64) if norm else nn.Identity(), nn.Linear(64, DIM)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x).chunk(2, -1) if self.packed else (self.gate(x), self.up(x))
        return self.down(self.norm(F.silu(gate) * up))


class Model(nn.Module):
    def __init__(self, norm: bool, packed: bool, parallel: bool) -> None:
        super().__init__()
        self.parallel = parallel
        self.patch, self.token = nn.Conv2d(3, DIM, 8, 8), nn.Parameter(torch.zeros(1, 1, DIM))
        self.norms = nn.ModuleList(nn.LayerNorm(DIM) for _ in range(5))
        self.attentions = nn.ModuleList(Attention(norm) for _ in range(2))
        self.mlps = nn.ModuleList(Gated(packed, norm) for _ in range(2))
        self.head = nn.Linear(DIM, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for i, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            first, second = self.norms[2 * i], self.norms[2 * i + 1]
            if self.parallel:
                x = x + torch.stack([attention(first(x)), mlp(second(x))]).sum(0)
            else:
                x = x + attention(first(x))
                x = x + mlp(second(x))
        return self.head(self.norms[4](x)[:, 0])


@functools.cache
def model(norm: bool = False, packed: bool = False, parallel: bool = False) -> nn.Module:
    return randomize(Model(norm, packed, parallel))


@pytest.mark.parametrize(
    ("style", "widths", "least"),
    [
        ({}, (8, 8), 25),
        ({"norm": True}, (8, 8), 25),
        ({"packed": True}, (4, 8), 10),
        ({"norm": True, "packed": True}, (4, 4), 4),
        ({"parallel": True}, (8, 8), 25),
    ],
    ids=["plain", "norm", "packed", "norm-packed", "parallel"],
)
def test_models_are_whole(style: dict[str, bool], widths: tuple[int, int], least: float) -> None:
    x = images(16, size=32)
    program = export(model(**style), (x[:1],), x, bits=widths[0], activation_bits=widths[1])
    (found,) = assert_whole_and_exact(program, images(4, size=32, seed=5))
    assert len(find(program.integer_module, ops.rotate.default)) == 4
    assert len(find(program.integer_module, ops.multiply.default)) == 2
    assert signal_to_noise(model(**style)(images(4, size=32, seed=5)).detach(), found) > least


def test_the_last_block_runs_for_the_class_token_alone() -> None:
    """Its queries are rotated for that token, its keys for all."""
    x = images(8, size=32)
    integer = export(model(), (x[:1],), x, bits=8).integer_module
    tokens = sorted(node.meta["val"].shape[1] for node in find(integer, ops.rotate.default))
    assert tokens == [1, TOKENS, TOKENS, TOKENS]
    assert [n.meta["val"].shape[1] for n in find(integer, ops.multiply.default)] == [TOKENS, 1]
    assert hoist_token_select(integer) is integer


def test_one_gate_for_all_tokens_stays_outside() -> None:
    """As in squeeze and excitation: its product has another form, and the report says so."""

    class Excited(Gated):
        def forward(self, x: Tensor) -> Tensor:
            return self.down(torch.sigmoid(self.gate(x.mean(1, keepdim=True))) * self.up(x))

    built = Model(norm=False, packed=False, parallel=False)
    built.mlps[0] = Excited(packed=False, norm=False)
    x = images(8, size=32)
    program = export(randomize(built), (x[:1],), x, bits=8)
    assert len(find(program.integer_module, ops.multiply.default)) == 1
    assert "aten::mul" in {operator.operator for operator in program.report.outside}
    (found,) = assert_exact(program, x[:2])
    assert signal_to_noise(built(x[:2]).detach(), found) > 20


def test_operators_have_their_places() -> None:
    x = images(8, size=32)
    integer = export(model(), (x[:1],), x, bits=8).integer_module
    first = [place.role for place in places(integer).values() if place.block == 0]
    assert first == [
        *("norm 1", "q", "k", "v", "probabilities", "attention", "stream 1"),
        *("norm 2", "fc1", "fc1", "activation", "product", "stream 2"),
    ]


def test_several_images_in_one_program() -> None:
    x = images(16, size=32)
    program = export(model(), (x[:1],), x, bits=8, batch_sizes=[1, 4])
    loaded = runtime.load(program.buffer, "forward_4")
    one_by_one = torch.cat([program.integer_module(image) for image in x[:4].split(1)])
    assert torch.equal(loaded.run(x[:4])[0], one_by_one)


def test_training_and_what_was_trained() -> None:
    x = images(16, size=32)
    trained = qat.prepare(model(norm=True), (x[:1],), x, QuantizationConfig())
    loss = trained(x).square().mean()
    loss.backward()
    weights = {name: p.grad for name, p in trained.named_parameters() if name.endswith(".latent")}
    assert len(weights) == 2 * (4 + 3) + 2
    still = [name for name, gradient in weights.items() if gradient is None or not bool(gradient.any())]
    assert still == []
    program = runtime.load(qat.export(trained).buffer)
    with torch.no_grad():
        found = torch.cat([program.run(image)[0] for image in x[:4].split(1)])
        assert torch.equal(trained.eval()(x[:4]), found)
