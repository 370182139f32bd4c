from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import fold_constants, merge_adapters, remove_no_ops
from packqvit_delegate.passes.graph import aten, find

K, O, R = 8, 6, 1  # noqa: E741 - as in the shapes of weights


def model(function: Callable[[nn.Module, Tensor], Tensor], bias: bool = False) -> Lambda:
    return Lambda(
        function,
        base=nn.Linear(K, O),
        down=nn.Linear(K, R, bias=bias),
        up=nn.Linear(R, O, bias=bias),
        down2=nn.Linear(K, R),
        up2=nn.Linear(R, O),
        magnitude=nn.Parameter(1 + tensor(1, O)),
        dropout=nn.Dropout(0.5),
    ).eval()


def merge(graph_module: GraphModule) -> GraphModule:
    return merge_adapters(remove_no_ops(fold_constants(graph_module)))


def lora(m: nn.Module, x: Tensor) -> Tensor:
    return m.up(m.down(m.dropout(x)))


ADAPTERS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "base_first": lambda m, x: m.base(x) + lora(m, x) * 0.5,
    "adapter_first": lambda m, x: 0.5 * lora(m, x) + m.base(x),
    "alpha": lambda m, x: torch.add(m.base(x), lora(m, x), alpha=2),
    "subtracted": lambda m, x: m.base(x) - lora(m, x) / 4,
    "two": lambda m, x: m.base(x) + lora(m, x) + 0.1 * m.up2(m.down2(x)),
    "two_added_first": lambda m, x: (lora(m, x) + m.up2(m.down2(x))) * 0.1 + m.base(x),
    "scaled_by_channel": lambda m, x: (m.magnitude - 1) * m.base(x) + m.magnitude * lora(m, x),
    "full_rank": lambda m, x: m.base(x) + m.base(x) + lora(m, x),
    "deeper": lambda m, x: m.base(x) + m.up(m.down(x).mul(1.0)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_become_one_linear(name: str, bias: bool) -> None:
    graph_module = run_pass(merge, model(ADAPTERS[name], bias), tensor(2, 3, K))
    assert operators(graph_module) == {"linear.default": 1}


def test_the_merge_is_that_of_float64() -> None:
    module = model(ADAPTERS["base_first"])
    graph_module = run_pass(merge, module, tensor(2, 3, K))
    (linear,) = find(graph_module, aten.linear.default)
    expected = module.base.weight.double() + 0.5 * module.up.weight.double() @ module.down.weight.double()
    assert torch.equal(graph_module.get_parameter(str(linear.args[1].target)), expected.float())


STAY: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int]] = {
    "a_function_between": (lambda m, x: m.base(x) + m.up(m.down(x).relu()), 3),
    "another_input": (lambda m, x: m.base(x) + lora(m, x.relu()), 3),
    "low_rank_alone": (lambda m, x: lora(m, x), 2),
    "low_ranks_alone": (lambda m, x: lora(m, x) + m.up2(m.down2(x)), 4),
    "read_elsewhere": (lambda m, x: m.base(x) + (lambda y: m.up(y) + y.sum())(m.down(x)), 3),
    "gated": (lambda m, x: m.base(x) + lora(m, x) * x.mean(-1, keepdim=True), 3),
}


@pytest.mark.parametrize("name", STAY)
def test_what_cannot_be_merged_or_would_cost_more_stays(name: str) -> None:
    function, linears = STAY[name]
    graph_module = run_pass(merge, model(function), tensor(2, 3, K))
    assert operators(graph_module)["linear.default"] == linears


def test_a_factor_beside_the_skip_does_not_hide_the_adapter() -> None:
    module = Lambda(
        lambda m, x: x + 0.5 * (m.base(x) + m.up(m.down(x))),
        base=nn.Linear(K, K),
        down=nn.Linear(K, R),
        up=nn.Linear(R, K),
    )
    graph_module = run_pass(merge_adapters, module, tensor(2, 3, K))
    assert operators(graph_module) == {"linear.default": 1, "add.Tensor": 1}


def test_linears_behind_each_other_are_one_where_that_is_less_work() -> None:
    module = Lambda(lambda m, x: m.up(m.down(x)), down=nn.Linear(K, 7), up=nn.Linear(7, K))
    assert operators(run_pass(merge_adapters, module, tensor(2, 3, K))) == {"linear.default": 1}
