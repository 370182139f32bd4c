from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphs import Lambda, operators, tensor
from models import export
from packqvit_delegate.passes import remove_in_place

aten = torch.ops.aten


def accumulate(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y += F.relu(m.linear(x), inplace=True)
    y *= 0.5
    return y


def after_dropout(m: nn.Module, x: Tensor) -> Tensor:
    y = F.dropout(m.linear(x), 0.1, training=False)
    y += x
    return y


@pytest.mark.parametrize("function", [accumulate, after_dropout])
def test_writes_become_values(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model, x = Lambda(function, linear=nn.Linear(4, 4)), tensor(2, 4)
    graph_module = remove_in_place(export(model, x))
    assert not [name for name in operators(graph_module) if name.split(".")[0].endswith("_")]
    torch.testing.assert_close(graph_module(x), model(x))


def read_through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    first = y.view(-1)[:4]
    y += 1
    return y + first


def write_through_a_view(m: nn.Module, x: Tensor) -> Tensor:
    y = m.linear(x)
    y[:1].add_(1)
    return y


def write_into_the_input(m: nn.Module, x: Tensor) -> Tensor:
    x += 1
    return m.linear(x)


@pytest.mark.parametrize("function", [read_through_a_view, write_through_a_view, write_into_the_input])
def test_a_write_that_others_see_stays(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    model = Lambda(function, linear=nn.Linear(4, 4))
    graph_module = remove_in_place(export(model, tensor(2, 4)))
    assert operators(graph_module)["add_.Tensor"] == 1
    torch.testing.assert_close(graph_module(tensor(2, 4)), model(tensor(2, 4)))
