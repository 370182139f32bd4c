"""Sums over a stack become additions; over anything else they stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes.normalize_stacked_sums import normalize_stacked_sums


def three(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x, m.fc(x), x.relu()]).sum(0)


def last_axis(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x, m.fc(x)], -1).sum(-1)


def mean(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x, m.fc(x)], 1).mean(1)


@pytest.mark.parametrize(("function", "additions"), [(three, 2), (last_axis, 1), (mean, 1)])
def test_become_additions(function: Callable[[nn.Module, Tensor], Tensor], additions: int) -> None:
    counts = operators(run_pass(normalize_stacked_sums, Lambda(function, fc=nn.Linear(6, 6)), tensor(2, 4, 6)))
    assert counts["add.Tensor"] == additions
    assert not {"stack.default", "sum.dim_IntList", "mean.dim"} & set(counts)


def another_axis(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x, m.fc(x)]).sum(1)


def both_axes(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x, m.fc(x)]).sum((0, 1))


def kept_axis(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([x, m.fc(x)]).sum(0, keepdim=True)


@pytest.mark.parametrize("function", [another_axis, both_axes, kept_axis])
def test_stay(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    counts = operators(run_pass(normalize_stacked_sums, Lambda(function, fc=nn.Linear(6, 6)), tensor(2, 4, 6)))
    assert counts["stack.default"] == counts["sum.dim_IntList"] == 1
