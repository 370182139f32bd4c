"""What stays in float goes to another partitioner; here convolutions around a Vision Transformer, and XNNPACK."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from models import MICRO, images, plain_model, randomize
from packqvit_delegate import PackQViTError, Program, QuantizationConfig, export, quantize, runtime
from packqvit_delegate.api import finish, lower
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.passes.graph import aten, constant, find
from packqvit_delegate.preparation import make_pair
from programs import signal_to_noise

CHEAP = CalibrationMethod(rounding="nearest", bias_correction=False, compensation=False, token_importance=False)
DIM = MICRO["dim"]
W8A8 = QuantizationConfig.from_bits(8)


class Hybrid(nn.Module):
    """A stem of convolutions with a GroupNorm and a pooling, a plain Vision Transformer, and a map of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.body = plain_model(embedding="none")
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 3, 3, 1, 1)
        )
        self.neck = nn.Sequential(nn.Conv2d(DIM, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body._embed(self.body.patch(self.stem(x)))
        for block in self.body.blocks:
            x = block(x)
        x = F.linear(self.body.norm(x), self.body.blocks[0].fc1.weight)[..., :DIM]
        side = MICRO["image"] // MICRO["patch"]
        x = self.neck(x.transpose(1, 2).reshape(-1, DIM, side, side))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class ShortTail(nn.Module):
    """Tokens of a plain model, a function that no table has, and a small MLP between two of these."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = plain_model(embedding="none")
        self.norm, self.wide = nn.LayerNorm(DIM), nn.Linear(DIM, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body._embed(self.body.patch(x))
        for block in self.body.blocks:
            x = block(x)
        return F.softsign(self.wide(self.norm(F.softsign(self.body.head(self.body.norm(x)) @ torch.ones(10, DIM)))))


@pytest.fixture(scope="module")
def hybrid() -> Hybrid:
    return randomize(Hybrid())  # type: ignore[return-value]


@pytest.fixture(scope="module")
def program(hybrid: Hybrid) -> Program:
    return export(hybrid, (images(1),), images(8), bits=8, method=CHEAP, partitioners=[XnnpackPartitioner()])


def test_one_call_of_each_and_nothing_outside(program: Program) -> None:
    (taken,) = program.report.fallbacks
    assert program.report.delegates == 1, program.report.render()
    assert (taken.backend, taken.delegates) == ("XnnpackBackend", 2), program.report.render()  # in front and behind
    assert not program.report.outside and not program.report.is_whole, program.report.render()
    names = {operator.operator for operator in taken.operators}
    assert {"aten::convolution", "aten::max_pool2d", "aten::mean", "aten::upsample_bilinear2d"} <= names
    assert all(operator.reason for operator in taken.operators)
    first, listed = program.report.render().splitlines()
    assert "1 delegate call(s)" in first and f"2 call(s) of XnnpackBackend with {len(taken.operators)}" in first
    assert "0 outside" in first and "4 aten::convolution" in listed


def test_it_runs_and_gives_what_the_float_model_gives(hybrid: Hybrid, program: Program) -> None:
    model = runtime.load(program.buffer)
    batch = images(1, seed=5)
    with torch.no_grad():
        real, eager = hybrid(batch), program.integer_module(batch)
    (result,) = model.run(batch)
    assert signal_to_noise(real, result) > 25
    assert signal_to_noise(eager, result) > 30


def test_a_backend_that_is_not_there_is_named(program: Program) -> None:
    elsewhere = program.buffer.replace(b"XnnpackBackend", b"ElsewhereBacke")
    with pytest.raises(PackQViTError, match="calls ElsewhereBacke, which this ExecuTorch .* it has .*Xnnpack"):
        runtime.load(elsewhere)


def test_without_a_fallback_the_same_parts_are_outside(hybrid: Hybrid, program: Program) -> None:
    integer = quantize(hybrid, (images(1),), images(8), W8A8, method=CHEAP)
    alone = lower(integer, (images(1),)).report
    assert alone.delegates == 1 and not alone.fallbacks
    assert {"aten::native_group_norm", "aten::convolution"} <= {operator.operator for operator in alone.outside}
    both = finish(integer, (images(1),), W8A8, partitioners=[XnnpackPartitioner()]).report
    assert both.delegates == 1 and [taken.backend for taken in both.fallbacks] == ["XnnpackBackend"]
    assert [operator.operator for operator in both.outside] == ["aten::native_group_norm"]  # quantize was not told


def float_linears(module: GraphModule) -> dict[str, Node]:
    return {node.name: node for node in find(module, aten.linear.default)}


@pytest.mark.parametrize(("width", "is_short"), [(DIM, True), (4 * DIM, False)])
def test_a_short_stretch_is_left_to_the_fallback(width: int, is_short: bool) -> None:
    """LayerNorm and linear on 16 tokens: 48 * width multiplications for 48 + width values, 24 or 38 for each."""
    model = randomize(ShortTail(width))
    pair = make_pair(model, (images(1),), Batches(images(8), (images(1),)), W8A8, CHEAP)
    originals = copy.deepcopy(pair.reference)
    integer = pair.to_integer(has_fallback=True)
    left = float_linears(integer)
    assert len(left) == int(is_short), left.keys()
    program = lower(integer, (images(1),), [XnnpackPartitioner()])
    with torch.no_grad():
        real = model(images(1, seed=3))
    (result,) = runtime.load(program.buffer).run(images(1, seed=3))
    assert signal_to_noise(real, result) > 20
    taken = [operator for fallback in program.report.fallbacks for operator in fallback.operators]
    told = [operator for operator in [*taken, *program.report.outside] if "had to be converted" in operator.reason]
    assert bool(told) == is_short
    if not is_short:
        return
    assert {operator.operator for operator in told} >= {"aten::linear", "aten::native_layer_norm"}
    ((name, linear),) = left.items()
    twin = float_linears(originals)[name]
    for ours, theirs in zip(linear.args[1:], twin.args[1:], strict=True):  # weight and bias as they were, not rounded
        assert torch.equal(constant(integer, ours), constant(originals, theirs))  # type: ignore[arg-type]
    assert program.report.delegates == 1 and not any("quantize" in operator.operator for operator in taken)


def test_partitioners_are_checked() -> None:
    with pytest.raises(PackQViTError, match="partitioners"):
        export(plain_model(), (images(1),), images(2), partitioners=["xnnpack"])  # type: ignore[list-item]
    with pytest.raises(PackQViTError, match="partitioners"):
        export(plain_model(), (images(1),), images(2), partitioners=XnnpackPartitioner())  # type: ignore[arg-type]
