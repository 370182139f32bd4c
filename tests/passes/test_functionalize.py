from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

import packqvit_delegate
from graphs import Lambda, operators, tensor
from models import MICRO, PlainBlock, Style, export, hugging_face_model, images, plain_model, randomize
from packqvit_delegate import PackQViTQuantizer, UnsupportedModelError
from packqvit_delegate.capture import capture
from packqvit_delegate.passes import canonicalize, float_operators, lower_to_integer
from packqvit_delegate.passes.functionalize import functionalize_graph, needs_functionalization
from packqvit_delegate.passes.patterns import attentions, layer_name


def into_a_slice(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y[:, 1:3] = x[:, :2]
    y[:, -1] = 0.5
    return y


def through_nested_views(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y[:, 1:][:, :2].mul_(3)
    y.view(-1)[2:5] += 1
    return y.t()


def into_an_empty_tensor(m: nn.Module, x: Tensor) -> Tensor:
    y = torch.empty(2, 8)
    y[:, :4] = m.linear(x)
    y[:, 4:].copy_(x)
    return y


def broadcast_copy(m: nn.Module, x: Tensor) -> Tensor:
    return torch.zeros(2, 4).copy_(m.linear(x)[0])


def of_another_type(m: nn.Module, x: Tensor) -> Tensor:
    return torch.zeros(2, 4, dtype=torch.float32).copy_((m.linear(x) * 8).int())


def masked(m: nn.Module, x: Tensor) -> Tensor:
    return m.linear(x).masked_fill_(torch.eye(2, 4, dtype=torch.bool), 2.0)


def indexed(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y.index_put_((torch.tensor([0, 1]), torch.tensor([3, 2])), torch.tensor([5.0, 6.0]))
    return y.index_fill_(1, torch.tensor([0]), 7.0).detach_()


def into_the_input(m: nn.Module, x: Tensor) -> Tensor:
    x += 1
    return m.linear(x)


def read_afterwards(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    first = y.view(-1)[:4]
    y += 1
    return y + first


def activations(m: nn.Module, x: Tensor) -> Tensor:
    y = F.relu(m.linear(x), inplace=True)
    return F.silu(y.sub_(0.5), inplace=True).neg_().clamp_(-1, 0.2)


def after_dropout(m: nn.Module, x: Tensor) -> Tensor:
    y = F.dropout(m.linear(x), 0.1, training=False)
    y += x
    return y


def through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y[:1].add_(1)
    return y


def accumulate(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y += F.relu(x * 2, inplace=True)
    y *= 0.5
    return y


def every_second(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y[:, ::2] = x[:, ::2]
    return y


FUNCTIONS = (
    into_a_slice,
    through_nested_views,
    into_an_empty_tensor,
    broadcast_copy,
    of_another_type,
    masked,
    indexed,
    into_the_input,
    read_afterwards,
    activations,
    after_dropout,
    through_a_view,
    accumulate,
    every_second,
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_writes_become_values(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model, x = Lambda(function, linear=nn.Linear(4, 4)), tensor(2, 4)
    graph_module = capture(model, (tensor(2, 4),))
    assert not needs_functionalization(graph_module.graph)
    assert operators(graph_module)["linear.default"] == 1
    torch.testing.assert_close(graph_module(x), model(tensor(2, 4)))
    torch.testing.assert_close(x, tensor(2, 4))


def out_variant(m: nn.Module, x: Tensor) -> Tensor:
    y = torch.empty(2, 4)
    torch.add(m.linear(x), x, out=y)
    return torch.mul(y, 2, out=y)


def test_operators_with_out() -> None:
    model, x = Lambda(out_variant, linear=nn.Linear(4, 4)), tensor(2, 4)
    graph_module = capture(model, (x,))
    assert not needs_functionalization(graph_module.graph)
    with torch.no_grad():
        torch.testing.assert_close(graph_module(x), model(x))
    assert all(parameter.requires_grad for parameter in graph_module.parameters())


def test_runs_that_are_replaced_become_a_concatenation() -> None:
    graph_module = capture(Lambda(into_a_slice, linear=nn.Linear(4, 4)), (tensor(2, 4),))
    assert not {name for name in operators(graph_module) if "scatter" in name or "copy" in name}
    assert operators(graph_module)["cat.default"] == 2


class Counter(nn.Module):
    """Counts its calls, and gives the count out or not."""

    def __init__(self, shown: bool) -> None:
        super().__init__()
        self.linear, self.shown = nn.Linear(4, 4), shown
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("scratch", torch.ones(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.scratch.zero_().add_(x)  # type: ignore[operator]
        y = self.linear(self.scratch)
        return y + self.calls if self.shown else y


def test_a_counter_that_nobody_reads_is_left_out() -> None:
    model, x = Counter(shown=False), tensor(2, 4)
    graph_module = capture(model, (x,))
    assert [node.target for node in graph_module.graph.nodes if node.op == "get_attr" and node.users] == [
        "linear.weight",
        "linear.bias",
        "scratch",
    ]
    torch.testing.assert_close(graph_module(x), graph_module(x))
    torch.testing.assert_close(graph_module(x), model(x))
    assert model.calls == 1


def test_outputs_that_depend_on_earlier_calls_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="the buffer calls changes at each call"):
        capture(Counter(shown=True), (tensor(2, 4),))


class Writing(PlainBlock):
    """A block that writes its branches into copies and parts of the stream, as BEiT and Swin do."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :1] += self.attention(self.norm1(x))[:, :1]
        y[:, 1:] = x[:, 1:] + self.attention(self.norm1(x))[:, 1:]
        z = torch.empty_like(y)
        z.copy_(y)
        z += self.fc2(F.gelu(self.fc1(self.norm2(y))))
        return z


def writing_model() -> nn.Module:
    model = plain_model()
    tokens = model.blocks[0].attention.mask.shape[-1]
    model.blocks[0] = Writing(MICRO["dim"], tokens, Style())
    return randomize(model)


def test_a_model_that_writes_keeps_its_layers() -> None:
    model, x = writing_model(), images(1)
    graph_module = canonicalize(capture(model, (x,)))
    assert len(list(attentions(graph_module))) == 3  # one of them is written twice
    names = {layer_name(node) for node in graph_module.graph.nodes if node.name.startswith("linear")}
    assert {"blocks.0.attention.q", "blocks.0.fc2", "blocks.1.fc1", "head"} <= names
    assert {"blocks.0.fc1.weight", "head.bias"} <= dict(graph_module.named_parameters()).keys()
    torch.testing.assert_close(graph_module(x), model(x), atol=1e-5, rtol=1e-4)


def test_the_standard_flow_functionalises_too() -> None:
    model, x = writing_model(), images(1)
    graph = torch.export.export(model.eval(), (x,)).module()
    assert functionalize_graph(graph) is not graph
    prepared = prepare_pt2e(graph, PackQViTQuantizer(bits=8))
    prepared(x)
    integer = lower_to_integer(convert_pt2e(prepared))
    with torch.no_grad():
        error, signal = (integer(x) - model(x)).norm(), model(x).norm()
    assert error < 0.1 * signal
    assert not [operator for operator in float_operators(integer) if "softmax" in operator.operator]


def test_beit_is_whole() -> None:
    """Hugging Face's BEiT writes into its position ids and its attention bias."""
    model, x = hugging_face_model("Beit", use_relative_position_bias=True), images(8)
    report = packqvit_delegate.export(model, (x[:1],), x, bits=8).report
    assert (report.delegates, report.outside) == (1, ())


def test_a_graph_without_writes_stays_itself() -> None:
    graph = export(plain_model(), images(1))
    assert functionalize_graph(graph) is graph
