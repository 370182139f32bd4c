"""How towers begin: patches in other spellings, video, embeddings, constants in front of the first quantiser."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from models import MICRO, PlainBlock, Style, randomize
from packqvit_delegate import Program, QuantizationConfig, export, qat, runtime
from packqvit_delegate.passes.graph import find
from programs import assert_exact, signal_to_noise
from qat.support import method

DIM, CLASSES = MICRO["dim"], MICRO["classes"]
ops = torch.ops.packqvit

IMAGE, TOKENS, VIDEO = (3, 32, 32), (16, DIM), (4, 3, 16, 16)


class Tower(nn.Module):
    """A beginning that gives tokens [B, N, D], a block, and a classifier on the mean."""

    def __init__(self, begin: Callable[[Tower, Tensor], Tensor], tokens: int = 16) -> None:
        super().__init__()
        self.begin = begin
        self.linear = nn.Linear(192, DIM)
        self.narrow = nn.Linear(20, DIM)
        self.tubes = nn.Conv3d(3, DIM, (2, 8, 8), (2, 8, 8))
        self.signal = nn.Conv1d(4, DIM, 8, 8)
        self.conv = nn.Conv2d(3, DIM, 8, 8)
        self.position = nn.Parameter(torch.zeros(1, tokens, DIM))
        self.token, self.kind = nn.Parameter(torch.zeros(1, 1, DIM)), nn.Parameter(torch.zeros(2, DIM))
        self.before, self.after = nn.LayerNorm(192), nn.LayerNorm(DIM)
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.25, 0.3]).reshape(3, 1, 1))
        self.block = PlainBlock(DIM, 1, Style())
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.block(self.begin(self, x))).mean(1))

    def with_token(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


def patches(x: Tensor, order: str = "hwc") -> Tensor:
    """[B, 3, 32, 32] -> [B, 16, 192], with the features of a patch in an order of rows, columns and channels."""
    axes = {"h": 3, "w": 5, "c": 1}
    cut = x.reshape(x.shape[0], 3, 4, 8, 4, 8).permute(0, 2, 4, *(axes[axis] for axis in order))
    return cut.reshape(x.shape[0], 16, 192)


def post_norm(m: Tower, x: Tensor) -> Tensor:
    x = m.after(x + m.block.attention(x))
    return m.norm(x + m.block.fc2(functional.gelu(m.block.fc1(x))))


BEGINNINGS: dict[str, tuple[Callable[[Tower, Tensor], Tensor], tuple[int, ...]]] = {
    "reshape": (lambda m, x: m.with_token(m.linear(patches(x))) + m.position, IMAGE),
    "reshape_without_positions": (lambda m, x: m.linear(patches(x, "chw")), IMAGE),
    "unfold": (lambda m, x: m.linear(functional.unfold(x, 8, stride=8).transpose(1, 2)) + m.position[:, 1:], IMAGE),
    "tensor_unfold": (
        lambda m, x: (
            m.linear(x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
            + m.position[:, 1:]
        ),
        (3, 35, 33),
    ),
    "channels_last_image": (
        lambda m, x: m.linear(x.reshape(-1, 4, 8, 4, 8, 3).transpose(2, 3).reshape(-1, 16, 192)) + m.position[:, 1:],
        (32, 32, 3),
    ),
    "norm_of_patches": (lambda m, x: m.after(m.linear(m.before(patches(x, "chw")))), IMAGE),
    "norm_of_patches_in_any_order": (lambda m, x: m.after(m.linear(m.before(patches(x)))), IMAGE),
    "tubelets": (lambda m, x: m.tubes(x.transpose(1, 2)).flatten(2).transpose(1, 2) + m.position[:, :8], VIDEO),
    "tubelets_of_one_step": (lambda m, x: m.tubes(x).flatten(2).mT, (3, 2, 16, 16)),
    "signal": (lambda m, x: m.signal(x).transpose(1, 2) + m.position[:, 1:], (4, 128)),
    "frames": (lambda m, x: m.with_token(m.narrow(x)) + m.position, (16, 20)),
    "frames_without_positions": (lambda m, x: m.narrow(x), (16, 20)),
    "features_of_channels": (lambda m, x: m.narrow(x.transpose(1, 2)) + m.position[:, 1:], (20, 16)),
    "normalised_inside": (lambda m, x: m.conv((x - m.mean) / m.std).flatten(2).mT + m.position[:, 1:], IMAGE),
    "normalised_to_one": (lambda m, x: m.linear(patches(x * 2 - 1)) + m.position[:, 1:], IMAGE),
    "embeddings": (lambda m, x: x, TOKENS),
    "embeddings_with_positions": (lambda m, x: x * DIM**0.5 + m.position[:, 1:] + m.kind[0], TOKENS),
    "embeddings_normalised": (lambda m, x: m.after(m.position[:, 1:] + x), TOKENS),
    "embeddings_post_norm": (lambda m, x: post_norm(m, x + m.position[:, 1:]), TOKENS),
    "pre_norm_of_clip": (lambda m, x: m.after(m.with_token(m.conv(x).flatten(2).mT) + m.position), IMAGE),
}


def inputs(shape: tuple[int, ...], count: int = 8) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(3)) * 2 - 0.7


def tower(name: str) -> tuple[nn.Module, Tensor]:
    begin, shape = BEGINNINGS[name]
    return randomize(Tower(begin, 17)), inputs(shape)


def check(model: nn.Module, x: Tensor, config: QuantizationConfig, least: float) -> Program:
    program = export(model, (x[:1],), x, config=config)
    assert program.report.is_whole, program.report.render()
    assert_exact(program, x[:2])
    found = torch.cat([program.integer_module(part) for part in x.split(1)])
    assert signal_to_noise(model(x).detach(), found) > least
    return program


@pytest.mark.parametrize("name", BEGINNINGS)
def test_whole(name: str) -> None:
    model, x = tower(name)
    check(model, x, QuantizationConfig.preset("w8a8"), 25)
    program = check(model, x, QuantizationConfig.preset("w4a8"), 15)
    assert first_bits(program) == 8


def first_bits(program: Program) -> int:
    """Width of the weights of what reads an image or rows of features; 8 where a stream begins at the input."""
    graph = program.integer_module.graph
    first = next(n for n in graph.nodes if n.target in (ops.patch_embedding.default, ops.linear.default))
    (quantize, *_) = find(program.integer_module, ops.quantize.default)
    if first.target is ops.linear.default and quantize.meta["val"].dtype == torch.int16:
        return 8
    return first.args[9] if first.target is ops.patch_embedding.default else first.args[5]


@pytest.mark.parametrize("name", ["embeddings_with_positions", "embeddings_normalised", "frames", "pre_norm_of_clip"])
def test_whole_with_a_stream_of_8_bits(name: str) -> None:
    model, x = tower(name)
    check(model, x, dataclasses.replace(QuantizationConfig.preset("w8a8"), residual="int8"), 20)


def test_constants_in_front_are_in_the_quantiser() -> None:
    """Nothing is added at run time: the offset of the quantiser has a number for each token and channel."""
    model, x = tower("embeddings_with_positions")
    (quantize,) = find(check(model, x, QuantizationConfig.preset("w8a8"), 25).integer_module, ops.quantize.default)
    assert quantize.args[2].meta["val"].shape == (16, DIM) and quantize.args[1].meta["val"].shape == (1,)
    assert quantize.args[3] == 1


def test_what_an_application_looks_up_is_quantised_with_its_positions() -> None:
    """The rows of words come from outside; what is added to them does not."""

    class Text(Tower):
        def __init__(self) -> None:
            super().__init__(lambda m, x: m.words(x) + m.position[:, 1:] + m.kind[1], 17)
            self.words = nn.Embedding(50, DIM)

    model, x = randomize(Text()), torch.randint(0, 50, (8, 16), generator=torch.Generator().manual_seed(1))
    program = export(model, (x[:1],), x, bits=8)
    assert [outside.operator for outside in program.report.outside] == ["aten::embedding"]
    assert program.report.delegates == 1
    assert_exact(program, x[:1])


@pytest.mark.parametrize(
    "name", ["embeddings_with_positions", "norm_of_patches_in_any_order", "frames_without_positions"]
)
def test_what_was_trained_is_what_runs(name: str) -> None:
    model, x = tower(name)
    trained = qat.prepare(model, (x[:1],), x, QuantizationConfig(residual="int16"))
    qat.train(trained, TensorDataset(x), teacher=model, method=method(steps=2))
    program = runtime.load(qat.export(trained).buffer)
    with torch.no_grad():
        assert torch.equal(trained(x), torch.cat([program.run(part)[0] for part in x.split(1)]))


def test_constants_that_differ_between_images_stay_outside() -> None:
    class Apart(Tower):
        def __init__(self) -> None:
            super().__init__(lambda m, x: x + m.apart, 17)
            self.register_buffer("apart", torch.randn(2, 16, DIM, generator=torch.Generator().manual_seed(0)))

    model, x = randomize(Apart()), inputs(TOKENS)
    program = export(model, (x[:2],), x, bits=8)
    assert [outside.operator for outside in program.report.outside] == ["aten::add"]
    assert_exact(program, x[:2])
