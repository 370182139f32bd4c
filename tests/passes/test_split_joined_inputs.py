from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes.split_joined_inputs import split_joined_inputs

Function = Callable[[nn.Module, Tensor], Tensor]
C = 4


def split(function: Function, bias: bool = True) -> dict[str, int]:
    model = Lambda(function, fc=nn.Linear(3 * C, 5, bias=bias))
    return operators(run_pass(split_joined_inputs, model, tensor(2, 6, C)))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axis", [-1, 1])
def test_each_part_has_its_own_linear(axis: int, bias: bool) -> None:
    counts = split(lambda m, x: m.fc(torch.cat([x[:, 0], x.mean(1), x.amax(1)], axis)), bias)
    assert (counts["linear.default"], counts["add.Tensor"], counts["cat.default"]) == (3, 2, 0)


def test_parts_of_different_widths() -> None:
    counts = split(lambda m, x: m.fc(torch.cat([x.relu(), x.sin().repeat(1, 1, 2)], -1)))
    assert counts["linear.default"] == 2 and not counts["cat.default"]


def test_what_others_read_stays_for_them() -> None:
    counts = split(lambda m, x: (lambda y: m.fc(y).sum() + y.sum())(torch.cat([x.relu(), x.sin(), x.cos()], -1)))
    assert (counts["linear.default"], counts["cat.default"]) == (3, 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.fc(torch.cat([x.relu(), x.sin()], 1).reshape(2, 4, 3 * C)),  # along the tokens
        lambda m, x: m.fc(torch.cat([x.relu(), x.sin(), x.cos()], -1).tanh()),  # something is computed on the way
        lambda m, x: torch.nn.functional.linear(torch.cat([x, x], -1), x.repeat(1, 1, 2)[0]),  # no constant weights
    ],
)
def test_others_stay(function: Function) -> None:
    counts = split(function)
    assert (counts["linear.default"], counts["cat.default"]) == (1, 1)
