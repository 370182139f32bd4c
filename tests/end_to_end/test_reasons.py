"""Each operator outside has its own reason and the path of its module, all the way through torch.export and to_edge."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import MICRO, images, plain_model, randomize
from packqvit_delegate import Program, UnsupportedModelError, export
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.outside import FEW, OutsideOperator, describe_outside, log_lines
from packqvit_delegate.passes import float_operators

CHEAP = CalibrationMethod(rounding="nearest", bias_correction=False, compensation=False, token_importance=False)
DIM = MICRO["dim"]
TOKENS = (MICRO["image"] // MICRO["patch"]) ** 2 + 1


class ChannelSoftsign(nn.Module):
    """A function of one variable for each channel, so that there is no table for all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("slope", torch.linspace(0.5, 2.0, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + (x * self.slope).abs())


class BentBlock(nn.Module):
    """A block of a plain model with an activation that has no table."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.act = block, ChannelSoftsign(block.fc1.out_features)
        block.__dict__["_activation"] = self.act

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Head(nn.Module):
    """What follows the logits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x).cumsum(-1)


@pytest.fixture(scope="module")
def program() -> Program:
    """Softsign in block 1, erf and cumsum behind the logits."""
    model = plain_model()
    model.blocks[1] = BentBlock(model.blocks[1])
    return export(nn.Sequential(model, Head()).eval(), (images(1),), images(8), bits=8, method=CHEAP)


def reasons(program: Program, operator: str) -> list[tuple[str, str]]:
    """Module and reason of each operator outside with a name."""
    return [(o.module, o.reason) for o in program.report.outside if o.operator == f"aten::{operator}"]


def test_every_operator_says_what_would_have_to_be_different(program: Program) -> None:
    ((module, reason),) = reasons(program, "cumsum")
    assert module == "1" and "no integer operator for aten.cumsum" in reason
    assert reason.endswith("or it runs behind the program, which then gives out aten.erf (1)")
    ((module, reason),) = reasons(program, "erf")
    assert module == "1" and "its result is read by aten.cumsum (1)" in reason
    ((module, reason),) = reasons(program, "div")
    assert "act" in module and "a function of the integer linear (0.blocks.1.block.fc1) alone" in reason
    assert "one number for all channels" in reason
    assert all("would have to" in outside.reason for outside in program.report.outside)


def test_all_parts_of_a_decomposed_operator_have_its_reason(program: Program) -> None:
    """to_edge makes permute_copy, view_copy and addmm of the second layer of the MLP."""
    parts = [o for o in program.report.outside if o.module == "0.blocks.1.block.fc2"]
    assert {"aten::addmm", "aten::permute_copy"} <= {o.operator for o in parts}
    assert len({o.reason for o in parts}) == 1
    assert "0.blocks.1.block.fc2" in parts[0].reason and "comes from aten.div" in parts[0].reason
    ((_, because),) = reasons(program, "div")
    assert because.removeprefix("aten.div: ") in parts[0].reason  # what made its input float is told with it


def test_the_eager_graph_says_the_same(program: Program) -> None:
    eager = {(o.module, o.reason) for o in float_operators(program.integer_module)}
    assert eager == {(o.module, o.reason) for o in program.report.outside}


def float_weights(integer: torch.fx.GraphModule) -> list[Tensor]:
    """The weights of the linears and convolutions that stayed in float."""
    targets = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)
    nodes = [node for node in integer.graph.nodes if node.target in targets]
    tensors = {**dict(integer.named_parameters()), **dict(integer.named_buffers())}
    return [tensors[str(operand.target)] for node in nodes for operand in node.args[1:3]]


def test_a_linear_outside_has_the_weights_of_the_model(program: Program) -> None:
    """Not rounded ones, and the bias that was not corrected for them."""
    fc2 = plain_model().blocks[1].fc2
    weight, bias = float_weights(program.integer_module)
    assert torch.equal(weight, fc2.weight) and torch.equal(bias, fc2.bias)


@pytest.mark.parametrize("bits", [8, 4])
def test_so_has_a_convolution(bits: int) -> None:
    """With all that calibration does to weights. The last layer reads the stream itself, without a LayerNorm."""
    model = plain_model()
    model.patch = nn.Sequential(nn.Conv2d(3, DIM, 3, 8, padding=1))
    model.norm = nn.Identity()
    randomize(model)
    method = CalibrationMethod(rotation=False)
    program = export(model, (images(1),), images(4), bits=bits, method=method)
    expected = [model.patch[0].weight, model.patch[0].bias]
    found = float_weights(program.integer_module)
    assert len(found) == 2 and all(map(torch.equal, found, expected))
    (reason,) = {reason for _, reason in reasons(program, "convolution")}
    assert (
        "a kernel of [3, 3], this one would have to have stride [3, 3], not [8, 8], padding [0, 0], not [1, 1]"
        in reason
    )


def test_operators_are_grouped_where_they_are_many(program: Program) -> None:
    outside = program.report.outside
    assert len(outside) > FEW
    assert len(log_lines(outside)) == 1 and f"{len(outside)} operators" in log_lines(outside)[0]
    assert len(program.report.render().splitlines()) < 1 + len(outside)
    assert len(log_lines(outside[:2])) == 2 and len(describe_outside(outside[:2])) == 2


def test_layers_that_differ_in_their_number_are_one_group() -> None:
    outside = [
        OutsideOperator(f"mul_{i}", "aten::mul", f"it reads blocks.{i}.fc1", f"blocks.{i}.mlp") for i in range(9)
    ]
    (line,) = describe_outside(outside)
    assert "blocks.*.mlp (9 modules): 9 aten::mul: it reads blocks.*.fc1" in line


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(1, keepdim=True))


class Channels(nn.Module):
    """A mean over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(TOKENS, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(2))


class Wrapped(nn.Module):
    """A plain model whose tokens go through one more module before the head."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.model, self.last = plain_model(), last
        self.norm, self.model.norm = self.model.norm, nn.Identity()
        self.model.head = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.model._embed(self.model.patch(x))
        for block in self.model.blocks:
            x = block(x)
        return self.last(self.norm(x))


@pytest.mark.parametrize(
    ("last", "operator", "words"),
    [
        (
            lambda: nn.Sequential(nn.Softmax(-1), nn.LayerNorm(DIM)),
            "native_layer_norm",
            r"input comes from aten\.softmax \(last\.0\), which has no integer codes: .*is no attention's",
        ),
        (Gate, "mul", r"multiplies .*the integer layer_norm \(norm\)"),
        (Channels, "mean", "over dim 2 of"),
        (
            lambda: nn.Sequential(nn.Linear(DIM, 8), nn.Softmax(-1), nn.Linear(8, 4)),
            "addmm",
            r"softmax",
        ),
    ],
)
def test_reasons_by_kind(last: Callable[[], nn.Module], operator: str, words: str) -> None:
    model = randomize(Wrapped(last()))
    program = export(model, (images(1),), images(2), bits=8, method=CHEAP)
    found = [reason for _, reason in reasons(program, operator)]
    assert any(re.search(words, reason) for reason in found), found
    assert all(o.reason for o in program.report.outside)


class OddAttention(nn.Module):
    """An attention with something on the way that integers do not have."""

    def __init__(self, odd: str) -> None:
        super().__init__()
        self.odd = odd
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (3, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.odd == "norm":
            q = self.norm(q.transpose(1, 2).flatten(2)).unflatten(-1, (3, -1)).transpose(1, 2)
        scores = q @ k.transpose(-2, -1) * 0.25
        if self.odd == "clamp":
            scores = scores.clamp(-5, 5)
        if self.odd == "bias":
            scores = scores + x.mean((1, 2)).reshape(-1, 1, 1, 1)
        p = scores.softmax(-2 if self.odd == "dim" else -1)
        if self.odd == "twice":
            y = p @ (p @ v)
        else:
            y = p @ v
        if self.odd == "scaled":
            y = p @ (v * 0.5)
        return self.proj(y.transpose(1, 2).flatten(2))


class OddViT(nn.Module):
    def __init__(self, odd: str, rest: int = 0) -> None:
        super().__init__()
        self.model = plain_model()
        for block in self.model.blocks[rest:]:
            block.attention = OddAttention(odd)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("norm", r"q of the attention is normalised by aten\.layer_norm \(model\.blocks\.0\.attention\.norm\)"),
        ("clamp", r"the softmax reads aten\.clamp"),
        ("bias", r"mask comes from aten.mean .* would have to be constant, or a linear function of its own queries"),
        ("dim", r"over dim -2 of 4"),
        ("twice", r"probabilities of the softmax are read by"),
        ("scaled", r"v is scaled by 0\.5"),
    ],
)
def test_a_refused_model_says_why_its_attention_is_none(odd: str, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words) as error:
        export(randomize(OddViT(odd)), (images(1),), images(2), bits=8)
    assert "model.blocks.0.attention" in str(error.value)


def test_a_model_without_attention_says_what_there_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)).eval()
    with pytest.raises(UnsupportedModelError, match=r"no softmax.*1 aten\.conv2d"):
        export(model, (images(1),), images(2), bits=8)


def test_what_belongs_to_an_attention_has_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        program = export(randomize(OddViT("clamp", rest=1)), (images(1),), images(2), bits=8, method=CHEAP)
    assert sum("outside the delegate" in record.message for record in caplog.records) == 1
    products = reasons(program, "bmm")
    assert len(products) == 2 and {module for module, _ in products} == {"model.blocks.1.attention"}
    assert all("part of the attention" in reason and "the softmax reads aten.clamp" in reason for _, reason in products)
    assert any("stands between" in o.reason or "moves values for" in o.reason for o in program.report.outside)
