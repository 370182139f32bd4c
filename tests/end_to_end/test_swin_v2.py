"""A small Swin Transformer v2: cosine attention in windows, post-norm, linears that read the stream, merging."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import images, randomize
from packqvit_delegate import Program, QuantizationConfig, export, prepare
from packqvit_delegate.passes import float_operators
from packqvit_delegate.passes.graph import find, shape_of
from packqvit_delegate.sensitivity.roles import places
from packqvit_delegate.training import TrainableModel
from programs import assert_exact, signal_to_noise

ops = torch.ops.packqvit
WINDOW = 4


def windows(x: Tensor) -> Tensor:
    """[B, h, w, C] -> [B * windows, 16, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // WINDOW, WINDOW, width // WINDOW, WINDOW, channels)
    return x.transpose(2, 3).reshape(-1, WINDOW * WINDOW, channels)


def together(x: Tensor, side: int) -> Tensor:
    """The counterpart of `windows`."""
    x = x.reshape(-1, side // WINDOW, side // WINDOW, WINDOW, WINDOW, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, side, side, x.shape[-1])


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.scale = nn.Parameter(torch.zeros(heads, 1, 1))
        self.register_buffer("table", torch.linspace(-2, 2, WINDOW**4).reshape(1, WINDOW**2, WINDOW**2))

    def attention(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * (2 + self.scale).clamp(max=4.6).exp()
        scores = scores + 16 * torch.sigmoid(self.table)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(windows(x.roll((-self.shift, -self.shift), (1, 2))))
        x = x + self.norm1(together(y, x.shape[1]).roll((self.shift, self.shift), (1, 2)))
        return x + self.norm2(self.fc2(F.gelu(self.fc1(x))))


class SwinV2(nn.Module):
    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, dim, 4, 4), nn.LayerNorm(dim)
        self.blocks = nn.ModuleList([Block(dim, 2, 0), Block(dim, 2, 2)])
        self.reduction, self.merged = nn.Linear(4 * dim, 2 * dim, bias=False), nn.LayerNorm(2 * dim)
        self.last = Block(2 * dim, 4, 0)
        self.out, self.head = nn.LayerNorm(2 * dim), nn.Linear(2 * dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).permute(0, 2, 3, 1))
        for block in self.blocks:
            x = block(x)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        x = self.last(self.merged(self.reduction(x)))
        return self.head(self.out(x).mean((1, 2)))


@functools.cache
def model() -> nn.Module:
    return randomize(SwinV2())


@functools.cache
def program(bits: int) -> Program:
    return export(model(), (images(1),), images(16), bits=bits)


@pytest.mark.parametrize(("bits", "floor"), [(8, 30), (4, 5)])
def test_it_is_one_delegate_call_with_the_eager_bits(bits: int, floor: float) -> None:
    made = program(bits)
    assert made.report.is_whole, made.report.render()
    assert float_operators(made.integer_module) == []
    batch = images(4, seed=7)
    assert_exact(made, batch)
    with torch.no_grad():
        found = torch.cat([made.integer_module(image) for image in batch.split(1)])
        assert signal_to_noise(model()(batch), found) > floor


def test_its_integer_operators() -> None:
    integer = program(8).integer_module
    counts = {name: len(find(integer, getattr(ops, name).default)) for name in ("head_norm", "layer_norm_add")}
    assert counts == {"head_norm": 6, "layer_norm_add": 6}
    assert len(find(integer, ops.requantize.default)) == 7  # in front of q, k and v, of each MLP, and of merging
    roles = [place.role for place in places(integer).values()]
    assert {role: roles.count(role) for role in ("norm 1", "norm 2", "fc1", "stream 1", "stream 2")} == {
        "norm 1": 3,
        "norm 2": 3,
        "fc1": 3,
        "stream 1": 3,
        "stream 2": 3,
    }


def test_only_the_first_and_the_last_layer_keep_eight_bits() -> None:
    """Merging's reduction begins a stream, proj and fc2 go into a norm: these are no heads."""
    integer = program(4).integer_module
    linears = find(integer, ops.linear.default)
    assert {node.args[5] for node in linears} == {4} and len(linears) == 3 * 6 + 1
    assert [node.args[3] for node in find(integer, ops.linear_accumulate.default)] == [8]
    assert [node.args[9] for node in find(integer, ops.patch_embedding.default)] == [8]
    ranges = {tuple(node.args[-2:]) for node in find(integer, ops.requantize.default)}
    assert ranges == {(-8, 7)}


def test_it_trains_on_the_integer_values() -> None:
    config = QuantizationConfig.from_bits(4)
    pair = prepare(model(), (images(1),), images(4), config)
    with torch.no_grad():
        torch.testing.assert_close(pair.reference(images(1)), model()(images(1)), atol=1e-4, rtol=1e-4)
    trainable = TrainableModel(pair.prepared, integer_functions=True)
    batch = images(2, seed=3)
    output = trainable(batch)
    output.square().sum().backward()
    gradients = [parameter.grad for parameter in trainable.parameters()]
    assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
    trainable.eval()
    with torch.no_grad():
        expected = trainable(batch)
    trainable.commit([])
    integer = pair.to_integer()
    assert torch.equal(torch.cat([integer(image) for image in batch.split(1)]), expected)


class PostNormViT(nn.Module):
    """A class token, cosine attention and post-norm: what only other tokens need is not computed in the last block."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(3, dim, 8, 8), nn.Parameter(torch.zeros(1, 1, dim))
        self.block, self.head = Block(dim, 2, 0), nn.Linear(dim, 10)
        self.block.table = torch.zeros(1, 17, 17)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.block.norm1(self.block.attention(x))
        x = x + self.block.norm2(self.block.fc2(F.gelu(self.block.fc1(x))))
        return self.head(x[:, 0])


def test_only_the_class_token_is_computed() -> None:
    made = export(randomize(PostNormViT()), (images(1),), images(8), bits=8)
    assert made.report.is_whole, made.report.render()
    integer = made.integer_module
    assert sorted(shape_of(node)[1] for node in find(integer, ops.head_norm.default)) == [1, 17]
    assert all(shape_of(node) == (1, 1, 32) for node in find(integer, ops.layer_norm_add.default))
    assert_exact(made, images(2, seed=5))
