from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphs import Lambda, operators, run_pass, tensor
from models import export
from packqvit_delegate.passes import normalize_unary
from packqvit_delegate.passes.graph import find
from packqvit_delegate.passes.normalize_unary import spell_out

RECOGNISED: dict[str, tuple[Callable[[Tensor], Tensor], str, dict[str, str]]] = {
    "erf": (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), "gelu.default", {}),
    "erf_product": (lambda x: 0.5 * x * (torch.erf(x * 0.70710678) + 1), "gelu.default", {}),
    "erf_grouped": (lambda x: x * ((torch.erf(x / 1.41421356) + 1) * 0.5), "gelu.default", {}),
    "tanh": (
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "gelu.default",
        {"approximate": "tanh"},
    ),
    "tanh_factored": (
        lambda x: 0.5 * x * (1 + torch.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x))),
        "gelu.default",
        {"approximate": "tanh"},
    ),
    "silu": (lambda x: x * torch.sigmoid(x), "silu.default", {}),
    "silu_exp": (lambda x: x / (1 + torch.exp(-x)), "silu.default", {}),
}


@pytest.mark.parametrize("name", RECOGNISED)
def test_spelled_out_function_is_recognised(name: str) -> None:
    function, target, kwargs = RECOGNISED[name]
    x = torch.linspace(-8, 8, 101).reshape(1, 101)
    graph_module = run_pass(normalize_unary, Lambda(lambda _, x: function(x)), x)
    assert operators(graph_module) == {target: 1}
    (node,) = (node for node in graph_module.graph.nodes if node.op == "call_function")
    assert node.kwargs == kwargs


OTHER: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "half_erf": lambda x: x * (1.0 + torch.erf(x / math.sqrt(2.0))),
    "two_inputs": lambda x: x[:1] * torch.sigmoid(x[1:]),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_functions_stay(name: str) -> None:
    graph_module = run_pass(normalize_unary, Lambda(lambda _, x: OTHER[name](x)), torch.linspace(-3, 3, 10).view(2, 5))
    assert not {"gelu.default", "silu.default"} & set(operators(graph_module))


LINEAR: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "quick_gelu": (
        lambda y: y * torch.sigmoid(1.702 * y),
        "v1 = mul.Tensor(x, 1.702); v2 = sigmoid.default(v1); v3 = mul.Tensor(x, v2)",
    ),
    "squared_relu": (lambda y: y.relu().square(), "v1 = relu.default(x); v2 = square.default(v1)"),
    "hard_swish": (
        lambda y: y * functional.relu6(y + 3) / 6,
        "v1 = add.Tensor(x, 3); v2 = relu6.default(v1); v3 = mul.Tensor(x, v2); v4 = div.Tensor(v3, 6)",
    ),
    "clamp": (lambda y: y.clamp(-1, 1), "v1 = clamp.default(x, -1, 1)"),
    "erf": (torch.erf, "v1 = erf.default(x)"),
    "gelu_times_number": (lambda y: functional.gelu(y) * 0.7, "v1 = gelu.default(x); v2 = mul.Tensor(v1, 0.7)"),
    "where": (
        lambda y: torch.where(y > 0, y, 0.1 * y),
        "v1 = gt.Scalar(x, 0); v2 = mul.Tensor(x, 0.1); v3 = where.self(v1, x, v2)",
    ),
}


def behind(function: Callable[[Any, Tensor], Tensor]) -> Lambda:
    """Linear, function, linear."""
    return Lambda(
        lambda m, x: m.after(function(m, m.before(x))),
        before=nn.Linear(5, 6),
        after=nn.Linear(6, 5),
        vector=torch.linspace(1, 2, 6),
    )


@pytest.mark.parametrize("name", LINEAR)
def test_any_function_of_a_linear_is_one_operator(name: str) -> None:
    function, text = LINEAR[name]
    graph_module = run_pass(normalize_unary, behind(lambda _, y: function(y)), tensor(2, 5))
    assert operators(graph_module) == {"linear.default": 2, "packqvit.function.default": 1}
    (node,) = find(graph_module, torch.ops.packqvit.function.default)
    assert node.args[1] == text


def test_the_operators_come_back() -> None:
    for function, _ in LINEAR.values():
        model = behind(lambda _, y, function=function: function(y))
        x = tensor(2, 5)
        expected = operators(graph := export(model, x))
        spell_out(normalize_unary(graph))
        graph.recompile()
        assert operators(graph) == expected and torch.equal(graph(x), model(x))


def test_a_number_in_the_place_of_a_tensor_comes_back_too() -> None:
    model = behind(lambda m, y: torch.maximum(y, m.floor))
    model.register_buffer("floor", torch.tensor(0.25))
    x = tensor(2, 5)
    graph_module = run_pass(normalize_unary, model, x)
    (node,) = find(graph_module, torch.ops.packqvit.function.default)
    assert node.args[1] == "v1 = maximum.default(x, 0.25)"
    spell_out(graph_module).recompile()
    assert torch.equal(graph_module(x), model(x))


def test_functions_grow_together() -> None:
    """What a second round finds behind a function becomes part of it."""
    graph_module = export(behind(lambda _, y: y.sigmoid().square().sqrt()), x := tensor(2, 5))
    expected = graph_module(x)
    (square,) = (node for node in graph_module.graph.nodes if node.target is torch.ops.aten.square.default)
    with graph_module.graph.inserting_before(square):
        text = "v1 = sigmoid.default(x); v2 = square.default(v1)"
        made = graph_module.graph.call_function(torch.ops.packqvit.function.default, (square.args[0].args[0], text))
        made.meta["val"] = square.meta["val"]
    square.replace_all_uses_with(made)
    graph_module.graph.eliminate_dead_code()
    (node,) = find(normalize_unary(graph_module), torch.ops.packqvit.function.default)
    assert node.args[1] == f"{text}; v3 = sqrt.default(v2)"
    assert torch.equal(graph_module(x), expected)


STAYS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a straight line": lambda m, y: 3 * (1 - y) / 2,
    "a number for each channel": lambda m, y: y * torch.sigmoid(m.vector * y),
    "not finite": lambda m, y: y.relu().log(),
    "others read the linear": lambda m, y: torch.cat([y.square(), y], -1)[..., :6],
    "random": lambda m, y: functional.rrelu(y, training=True),
    "no linear in front": lambda m, y: y.cumsum(-1).square(),
    "a table of its own": lambda m, y: y.tanh(),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_no_table_stays(name: str) -> None:
    graph_module = export(behind(STAYS[name]), tensor(2, 5))
    before = operators(graph_module)
    assert operators(normalize_unary(graph_module)) == before
