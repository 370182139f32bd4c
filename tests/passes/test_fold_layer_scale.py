from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import fold_layer_scale


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6)])
def test_vector_is_folded(shape: tuple[int, ...], bias: bool) -> None:
    gamma = nn.Parameter(tensor(*shape))
    model = Lambda(lambda m, x: x + m.gamma * m.fc(x), fc=nn.Linear(6, 6, bias=bias), gamma=gamma)
    graph_module = run_pass(fold_layer_scale, model, tensor(2, 5, 6))
    assert operators(graph_module) == {"linear.default": 1, "add.Tensor": 1}
    assert sorted(tuple(parameter.shape) for parameter in graph_module.parameters()) == [(6,), (6, 6)][not bias :]


def shared(m: nn.Module, x: Tensor) -> Any:
    y = m.fc(x)
    return y * m.gamma, y


LEFT_ALONE: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "read_elsewhere": shared,
    "number": lambda m, x: m.fc(x) * 0.5,
    "one_element": lambda m, x: m.fc(x) * m.one,
    "by_token": lambda m, x: m.fc(x) * m.token,
    "not_constant": lambda m, x: m.fc(x) * x,
    "not_linear": lambda m, x: x * m.gamma,
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    state = {"gamma": tensor(6), "one": tensor(1), "token": tensor(6, 1)}
    model = Lambda(LEFT_ALONE[name], fc=nn.Linear(6, 6), **state)
    assert operators(run_pass(fold_layer_scale, model, tensor(2, 6, 6)))["mul.Tensor"] == 1


def test_shared_weight_is_folded_for_each_use() -> None:
    model = Lambda(lambda m, x: m.fc(m.fc(x) * m.gamma), fc=nn.Linear(6, 6), gamma=tensor(6))
    assert operators(run_pass(fold_layer_scale, model, tensor(2, 6))) == {"linear.default": 2}
