from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.calibration.branches import stream_before
from packqvit_delegate.passes import fold_constants, orient_residual
from packqvit_delegate.passes.patterns import adds_to_stream, is_post_norm_add, is_residual_add, sums_up_linears

aten = torch.ops.aten


def additions(graph_module: torch.fx.GraphModule) -> list[tuple[str, str]]:
    nodes = (node for node in graph_module.graph.nodes if node.target is aten.add.Tensor)
    return [tuple(str(getattr(argument, "target", argument)) for argument in node.args) for node in nodes]


def test_branch_goes_second() -> None:
    model = Lambda(lambda m, x: m.fc(m.fc(x) + x) + m.fc(x).relu(), fc=nn.Linear(4, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4), atol=0)
    assert additions(graph_module) == [("x", "aten.linear.default"), ("aten.relu.default", "aten.linear.default")]


def test_stream_first_stays() -> None:
    graph_module = run_pass(orient_residual, Lambda(lambda m, x: x + m.fc(x), fc=nn.Linear(4, 4)), tensor(2, 3, 4))
    assert additions(graph_module) == [("x", "aten.linear.default")]


def test_what_is_no_residual_stays() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return m.fc(x) + m.fc2(x), m.fc(x) + m.offset, m.fc(x) + x[:1]

    model = Lambda(forward, fc=nn.Linear(4, 4), fc2=nn.Linear(4, 4), offset=tensor(2, 3, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    assert operators(graph_module)["add.Tensor"] == 3
    first = [str(first) for first, _ in additions(graph_module)]
    assert first == ["aten.linear.default", "offset", "aten.linear.default"]  # tokens of a constant are a stream


def test_a_constant_of_all_tokens_becomes_a_bias() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return m.fc(x) + 1, m.fc(x) + m.offset, m.row.expand(2, 3, -1) - m.fc2(x), m.fc(x) + m.rows

    model = Lambda(
        forward,
        fc=nn.Linear(4, 4),
        fc2=nn.Linear(4, 4, bias=False),
        offset=tensor(4),
        row=tensor(1, 1, 4),
        rows=tensor(4).expand(2, 1, 4).contiguous(),
    )
    graph_module = run_pass(lambda module: orient_residual(fold_constants(module)), model, tensor(2, 3, 4))
    assert operators(graph_module) == {"linear.default": 4}


STREAM_SUMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "plain": lambda m, x: m.a(x) + m.b(x),
    "mean_of_two": lambda m, x: (x.mean(1) + x.amax(1)) * 0.5,
    "halves": lambda m, x: x.mean(1) / 2 + 0.5 * x.amax(1),
    "moved": lambda m, x: m.a(x)[:, :2] + m.b(x)[:, 1:],
    "of_three": lambda m, x: (m.a(x) + m.b(x) + m.a(m.b(x))) / 3,
}


@pytest.mark.parametrize("name", STREAM_SUMS)
def test_sums_of_streams(name: str) -> None:
    """Means, maxima and LayerNorms without weights, so that none is a branch."""
    norms = {part: nn.LayerNorm(4, elementwise_affine=False) for part in "ab"}
    graph_module = run_pass(orient_residual, Lambda(STREAM_SUMS[name], **norms), tensor(2, 3, 4), atol=1e-6)
    found = [node for node in graph_module.graph.nodes if node.target is aten.add.Tensor]
    assert len(found) == (2 if name == "of_three" else 1) and all(map(adds_to_stream, found))
    assert not any(node.target is aten.mul.Tensor and node.args[0] in found for node in graph_module.graph.nodes)


SKIPS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int]] = {
    "subtracted": (lambda m, x: x - m.fc(x), 0),
    "subtracted_from": (lambda m, x: m.fc(x) - x, 1),
    "alpha_of_the_branch": (lambda m, x: torch.sub(x, m.fc(x), alpha=0.3), 0),
    "alpha_of_the_skip": (lambda m, x: torch.add(m.fc(x), x, alpha=2), 1),
    "scaled_branch": (lambda m, x: m.fc(x) * 0.5 + x, 0),
    "negative_branch": (lambda m, x: x + -m.fc(x) / 3, 0),
    "gated_by_a_parameter": (lambda m, x: m.gate * m.fc(x) + x, 0),
    "gated_by_one_number": (lambda m, x: x + m.fc(x) * m.number, 0),
    "scaled_skip": (lambda m, x: m.fc(x) + x * 0.5, 1),
    "gated_skip": (lambda m, x: m.fc(x) + m.gate * x, 1),
    "scaled_sum": (lambda m, x: (x + m.fc(x)) * 0.7, 1),
    "lerp": (lambda m, x: torch.lerp(x, m.fc(x), 0.1), 1),
    "skip_twice": (lambda m, x: x + (m.fc(x) + x), 1),
    "skip_in_parts": (lambda m, x: x * 0.25 + (m.fc(x) + 0.75 * x), 0),
    "number_added": (lambda m, x: m.fc(x) + 1 + x - m.gate, 0),
    "late_skip": (lambda m, x: (lambda y: torch.relu(x) + y)(m.fc(x)), 0),
}


@pytest.mark.parametrize("name", SKIPS)
def test_skips_in_any_spelling(name: str) -> None:
    function, products = SKIPS[name]
    model = Lambda(function, fc=nn.Linear(4, 4), gate=nn.Parameter(tensor(4)), number=nn.Parameter(tensor(1)))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    counts = operators(graph_module)
    assert (counts["add.Tensor"], counts["mul.Tensor"], counts["linear.default"]) == (1, products, 1)
    order = list(graph_module.graph.nodes)
    (linear,) = graph_module.graph.find_nodes(op="call_function", target=aten.linear.default)
    (addition,) = linear.users
    stream = stream_before(linear)
    assert is_residual_add(addition) and stream is addition.args[0]
    assert order.index(stream) < order.index(linear)


@pytest.mark.parametrize("name", ["together", "one_by_one", "subtracted"])
def test_parallel_branches(name: str) -> None:
    functions: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
        "together": lambda m, x: x + (m.fc(x) + m.fc2(x.relu())),
        "one_by_one": lambda m, x: m.fc(x) + x + m.fc2(x.relu()),
        "subtracted": lambda m, x: m.fc(x) - m.fc2(x.relu()) + x,
    }
    model = Lambda(functions[name], fc=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    assert all(map(is_residual_add, graph_module.graph.find_nodes(op="call_function", target=aten.add.Tensor)))
    assert operators(graph_module)["add.Tensor"] == 2


def test_gates_computed_at_run_time_stay() -> None:
    model = Lambda(lambda m, x: m.fc(x) * m.fc2(x).sigmoid() + x, fc=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    assert operators(graph_module) == {"linear.default": 2, "sigmoid.default": 1, "mul.Tensor": 1, "add.Tensor": 1}


def test_a_branch_that_others_read_keeps_its_weights() -> None:
    model = Lambda(lambda m, x: (lambda y: (x - y, y.relu()))(m.fc(x)), fc=nn.Linear(4, 4))
    assert operators(run_pass(orient_residual, model, tensor(2, 3, 4)))["sub.Tensor"] == 1


def test_of_two_linears_the_later_one_is_the_branch() -> None:
    model = Lambda(lambda m, x: (lambda y: m.fc2(x.relu()) + y)(m.fc(x)), fc=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    (addition,) = graph_module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    order = list(graph_module.graph.nodes)
    assert order.index(addition.args[0]) < order.index(addition.args[1])


POST_NORMS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "first": lambda m, x: m.norm(m.fc(x)) + x,
    "second": lambda m, x: x + m.norm(m.fc(x)),
    "subtracted": lambda m, x: x - m.norm(m.fc(x)),
    "scaled": lambda m, x: m.norm(m.fc(x)) * 0.5 + x,
    "gated": lambda m, x: x + m.norm(m.fc(x)) * m.gate,
    "number_added": lambda m, x: m.norm(m.fc(x)) + 1 + x,
}


@pytest.mark.parametrize("name", POST_NORMS)
def test_post_norms_in_any_spelling(name: str) -> None:
    model = Lambda(POST_NORMS[name], fc=nn.Linear(4, 4), norm=nn.LayerNorm(4), gate=nn.Parameter(tensor(4)))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    (addition,) = graph_module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert is_post_norm_add(addition) and addition.args[0].op == "placeholder"
    assert operators(graph_module)["mul.Tensor"] == 0
    (linear,) = graph_module.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert stream_before(linear) is None


def test_a_linear_is_added_to_what_a_layer_norm_gives() -> None:
    model = Lambda(lambda m, x: m.fc(x) + m.norm(x), fc=nn.Linear(4, 4), norm=nn.LayerNorm(4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    assert additions(graph_module) == [("aten.layer_norm.default", "aten.linear.default")]


HEADS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "mean": lambda m, x: (m.fc(x) + m.fc2(x.relu())) / 2,
    "difference": lambda m, x: m.fc(x) - m.fc2(x.relu()),
    "weighted": lambda m, x: torch.lerp(m.fc(x), m.fc2(x.relu()), 0.3) + m.gate,
}


@pytest.mark.parametrize("name", HEADS)
def test_linears_alone_are_added_to_the_first(name: str) -> None:
    """The mean of the two heads of a distilled DeiT."""
    model = Lambda(HEADS[name], fc=nn.Linear(4, 4), fc2=nn.Linear(4, 4), gate=nn.Parameter(tensor(4)))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    assert operators(graph_module) == {"linear.default": 2, "relu.default": 1, "add.Tensor": 1}
    (addition,) = graph_module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert is_residual_add(addition) and sums_up_linears(addition)


@pytest.mark.parametrize(
    ("function", "layers"),
    [(lambda m, x: 3 * m.fc(x) + m.gate, "linear.default"), (lambda m, x: -m.norm(x) / 7, "layer_norm.default")],
)
def test_factors_of_the_answer_become_weights(function: Callable[[nn.Module, Tensor], Tensor], layers: str) -> None:
    model = Lambda(function, fc=nn.Linear(4, 4), norm=nn.LayerNorm(4), gate=nn.Parameter(tensor(4)))
    assert operators(run_pass(orient_residual, model, tensor(2, 3, 4))) == {layers: 1}


def test_the_factor_in_front_of_a_function_stays() -> None:
    model = Lambda(lambda m, x: (m.fc(x) * 3).relu(), fc=nn.Linear(4, 4))
    assert operators(run_pass(orient_residual, model, tensor(2, 3, 4)))["mul.Tensor"] == 1


def test_a_stream_is_no_sum_of_linears_alone() -> None:
    """It begins with a linear, as behind the merging of patches, but a LayerNorm reads it."""
    layers = {"fc": nn.Linear(4, 4), "fc2": nn.Linear(4, 4), "norm": nn.LayerNorm(4)}
    model = Lambda(lambda m, x: (lambda y: y + m.fc2(m.norm(y)))(m.fc(x)), **layers)
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    (addition,) = graph_module.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    assert is_residual_add(addition) and not sums_up_linears(addition)
