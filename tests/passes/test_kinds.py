"""An operator outside is told by what it is: each sentence names what in this model would have to be different."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from packqvit_delegate.passes.explain import explain
from packqvit_delegate.passes.kinds import by_kind, not_for_linears
from packqvit_delegate.passes.reasons import name_cause, reason_of, set_reason

IMAGE, TOKENS = torch.zeros(1, 4, 8, 8), torch.zeros(2, 5, 6)
WEIGHT, VECTOR = nn.Parameter(torch.ones(6, 6)), nn.Parameter(torch.ones(6))


class Model(nn.Module):
    """A function of one tensor and of constants."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function, self.weight, self.vector = function, WEIGHT, VECTOR
        self.register_buffer("prefix", torch.zeros(2, 1, 6))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def graph_of(function: Callable[..., object], x: Tensor) -> GraphModule:
    return torch.export.export(Model(function).eval(), (x,)).module()


def node_of(graph_module: GraphModule, name: str) -> Node:
    """The last node that calls aten.<name>."""
    names = {node: str(getattr(node.target, "overloadpacket", "")) for node in graph_module.graph.nodes}
    return [node for node, operator in names.items() if operator == f"aten.{name}"][-1]


def linear(model: Model, x: Tensor) -> Tensor:
    return F.linear(x, model.weight)


@pytest.mark.parametrize(
    ("function", "x", "operator", "words"),
    [
        (lambda m, x: F.pad(x, (1, 1)), IMAGE, "pad", "pads the model's input: the images would have to be padded"),
        (lambda m, x: F.pad(x.relu(), (1, 1)), IMAGE, "pad", r"pads aten\.relu for the model's output: .* sizes"),
        (lambda m, x: F.group_norm(x.relu(), 2), IMAGE, "group_norm", r"normalises aten\.relu in 2 groups.*LayerNorm"),
        (lambda m, x: x.relu().amax(1), TOKENS, "amax", r"its input comes from aten\.relu, which has no integer codes"),
        (lambda m, x: x.relu().max(1)[1], TOKENS, "max", r"takes one of many .*relu: the maximum or"),
        (lambda m, x: x.relu().sum(1), TOKENS, "sum", r"sums aten\.relu over dim \[1\]: the mean"),
        (
            lambda m, x: torch.stack([x.relu(), x.tanh()]).sum(0),
            TOKENS,
            "sum",
            r"aten\.relu and aten\.tanh.*x \+ a \+ b",
        ),
        (lambda m, x: torch.stack([x.relu(), x.tanh()]).sum(0), TOKENS, "stack", r"for aten\.sum to add.*x \+ a \+ b"),
        (
            lambda m, x: torch.cat([x.relu(), x.tanh()], 1).cumsum(1),
            TOKENS,
            "cat",
            "one tensor from the patch embedding on",
        ),
        (lambda m, x: torch.cat([x.relu(), x.tanh()], 1), TOKENS, "cat", "would have to give each out by itself"),
        (lambda m, x: linear(m, x) / 0.07, TOKENS, "div", r"in the weights of aten\.linear right in front of it"),
        (lambda m, x: linear(m, torch.cat([x.relu(), x], -1)[..., :6]), TOKENS, "cat", r"linear would have .*each by"),
        (
            lambda m, x: torch.cat([m.prefix, x.relu()], 1),
            TOKENS,
            "cat",
            r"beside aten\.relu: .*patches",
        ),
        (
            lambda m, x: (y := linear(m, x)) / 2 + y.tanh(),
            TOKENS,
            "add",
            r"a function of aten\.linear alone.*and the model",
        ),
        (lambda m, x: x.relu() + x.cumsum(1), TOKENS, "add", "neither is a linear layer's"),
        (lambda m, x: linear(m, x)[:, :1] + x.cumsum(1), TOKENS, "add", r"shapes are \[2, 1, 6\] and \[2, 5, 6\]"),
        (
            lambda m, x: (y := linear(m, x)) + x.cumsum(1) * y.exp(),
            TOKENS,
            "add",
            r"aten\.linear is also read by aten\.exp",
        ),
        (lambda m, x: linear(m, x).flip(1) + x.cumsum(1), TOKENS, "add", r"aten\.linear is moved by aten\.flip in"),
        (lambda m, x: x.cumsum(1) + m.vector, TOKENS, "add", r"a constant to what comes from aten\.cumsum: that would"),
        (lambda m, x: x.cumsum(1) * m.vector, TOKENS, "mul", r"layer right in front of it, and there is aten\.cumsum"),
        (lambda m, x: (y := linear(m, x)) * m.vector + y.cumsum(1), TOKENS, "mul", r"aten\.cumsum reads that too"),
        (lambda m, x: linear(m, x.cumsum(1) * m.vector), TOKENS, "mul", r"or in those of aten\.linear behind it"),
        (lambda m, x: x.cumsum(1) * x.sort(1).values, TOKENS, "mul", "one of the two would have to be constant"),
        (lambda m, x: (y := linear(m, x)) * torch.sigmoid(1.7 * y), TOKENS, "mul", r"a function of aten\.linear alone"),
        (
            lambda m, x: (y := linear(m, x)) * (y * m.vector).tanh(),
            TOKENS,
            "mul",
            "one number for all channels, so that",
        ),
        (
            lambda m, x: x.cumsum(1).sin(),
            TOKENS,
            "sin",
            r"aten\.sin is a function of one variable.*between aten\.cumsum and the",
        ),
        (lambda m, x: torch.atan2(x.cumsum(1), x), TOKENS, "atan2", "one of the two would have to be constant"),
        (lambda m, x: x.relu().cumsum(1), TOKENS, "cumsum", r"do without it between aten\.relu and the model's output"),
        (lambda m, x: F.interpolate(x, scale_factor=2.0), IMAGE, "upsample_nearest2d", "resizes the input x"),
        (lambda m, x: F.unfold(x, 2), IMAGE, "im2col", "a patch embedding .* would have to cut them"),
        (lambda m, x: x + torch.randn_like(x), TOKENS, "randn_like", r"random numbers.*\(a buffer\)"),
        (lambda m, x: F.rms_norm(x.relu(), (6,)), TOKENS, "rms_norm", "a LayerNorm would have to be in its place"),
        (lambda m, x: F.embedding(x[0, 0].long(), m.weight), TOKENS, "embedding", "take the rows themselves"),
        (lambda m, x: x.argmax(-1), TOKENS, "argmax", "ranks the input x: it would have to be left to top_k of export"),
        (lambda m, x: x.argmax(-1) + 1, TOKENS, "argmax", r"for aten\.add: its result would have to be a constant"),
        (lambda m, x: x.gather(1, x.long()), TOKENS, "gather", r"index_select of .* by a constant, would have to be"),
        (
            lambda m, x: F.adaptive_avg_pool2d(x, 1),
            IMAGE,
            "adaptive_avg_pool2d",
            r"mean\(1\) or amax\(1\) of the 64 tokens \[1, 64, 4\]",
        ),
        (lambda m, x: F.avg_pool2d(x, 2), IMAGE, "avg_pool2d", "larger patches would have to be in its place"),
        (
            lambda m, x: F.softmax(x.relu(), -1),
            TOKENS,
            "softmax",
            r"aten\.softmax of aten\.relu is no attention's: a product",
        ),
        (
            lambda m, x: F.conv2d(x, m.weight[:4, :4, None, None]),
            IMAGE,
            "conv2d",
            "one pixel.*would have to be a linear",
        ),
        (
            lambda m, x: F.conv2d(x, m.weight[:, :4, None, None].expand(6, 4, 2, 2), padding=1),
            IMAGE,
            "conv2d",
            r"\[2, 2\], this one would have to have stride \[2, 2\], not \[1, 1\], padding \[0, 0\], not \[1, 1\]",
        ),
        (
            lambda m, x: F.conv2d(x, m.weight[:, :4, None, None].expand(6, 4, 2, 2), stride=2).relu(),
            IMAGE,
            "conv2d",
            r"would have to become tokens of the residual stream, but is read by aten\.relu",
        ),
        (
            lambda m, x: F.batch_norm(x.relu(), None, None, training=True),
            IMAGE,
            "batch_norm",
            r"normalises aten\.relu by statistics that are computed at run time: they would have to be constants",
        ),
    ],
)
def test_it_names_what_would_have_to_be_different(
    function: Callable[..., object], x: Tensor, operator: str, words: str
) -> None:
    reason = by_kind(node_of(graph_of(function, x), operator))
    assert re.search(words, reason), reason
    assert "would have to" in reason


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda m, x: x.relu().cumsum(1), r"read by aten\.cumsum: to get codes, only linear layers"),
        (lambda m, x: linear(m, x.relu().reshape(2, 6, 5).mT), r"tokens are taken apart by aten\.reshape"),
        (lambda m, x: x.relu().mT, r"tokens are taken apart by aten\.numpy_T|aten\.mT|aten\.transpose"),
    ],
)
def test_a_function_without_codes_names_what_reads_it(function: Callable[..., object], words: str) -> None:
    reason = not_for_linears(node_of(graph_of(function, TOKENS), "relu"))
    assert re.search(words, reason), reason


@pytest.mark.parametrize("name", ["layer_norm", "mean"])
def test_a_norm_or_a_mean_without_codes_names_what_it_reads(name: str) -> None:
    reason = by_kind(node_of(graph_of(lambda m, x: F.layer_norm(x.sin().roll(1, 1), (6,)).mean(1), TOKENS), name))
    source = r"aten\.sin" if name == "layer_norm" else r"aten\.layer_norm"
    assert re.search(rf"its input comes from {source}, which has no integer codes: .* would have to run in", reason)


def test_the_operator_with_which_it_began_is_told() -> None:
    """tan reads cos, which reads sin: the reason of all is that of sin."""
    graph_module = graph_of(lambda m, x: x.sin().cos().tan(), TOKENS)
    sin, cos, tan = (node_of(graph_module, name) for name in ("sin", "cos", "tan"))
    set_reason(sin, "there is no sine")
    for node, cause in ((cos, sin), (tan, cos)):
        set_reason(node, f"its input comes from {cause.name}")
        name_cause(node, cause)
    explain(graph_module)
    assert reason_of(cos) == "its input comes from sin: there is no sine"
    assert reason_of(tan) == "its input comes from cos, and that goes back to aten.sin: there is no sine"
    assert set(cos.meta["custom"]) == {"packqvit_reason"}  # what was needed on the way is gone


def test_a_move_tells_the_reason_of_what_it_stands_between() -> None:
    graph_module = graph_of(lambda m, x: x.sin().transpose(1, 2).cos(), TOKENS)
    set_reason(node_of(graph_module, "sin"), "there is no sine")
    explain(graph_module)
    reason = str(reason_of(node_of(graph_module, "transpose")))
    assert reason.endswith("it stands between aten.sin and aten.cos, which stay in float: there is no sine")


def test_operators_that_take_another_name_are_named() -> None:
    """silu becomes sigmoid and mul in the edge dialect; relu stays relu."""
    graph_module = graph_of(lambda m, x: F.silu(x).relu(), TOKENS)
    explain(graph_module)
    assert str(reason_of(node_of(graph_module, "silu"))).startswith("aten.silu: ")
    assert "aten.relu" not in str(reason_of(node_of(graph_module, "relu")))
