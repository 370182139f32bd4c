from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphs import Lambda, operators, run_pass
from packqvit_delegate.passes import normalize_unary

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
