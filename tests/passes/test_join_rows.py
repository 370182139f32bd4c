from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import join_rows

Function = Callable[[object, torch.Tensor], torch.Tensor]


def merge(m: object, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)


def roll(m: object, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, 3:], x[:, :3]], 1)


def fold_windows(m: object, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :2], x[:, 2:]], 0)


@pytest.mark.parametrize("function", [merge, roll, fold_windows])
def test_whole_rows_are_gathered_at_once(function: Function) -> None:
    counts = operators(run_pass(join_rows, Lambda(lambda m, x: function(m, x.relu())), tensor(2, 4, 6, 5)))
    assert counts["cat.default"] == counts["slice.Tensor"] == 0
    assert counts["index_select.default"] == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.cat([x[..., :2], x[..., 2:]], 1),  # parts of rows
        lambda m, x: torch.cat([x[:, :1], m.row], 1),  # another value
        lambda m, x: torch.cat([x, x], -1),  # nothing moves
        lambda m, x: torch.cat([x[:, :1], x[:, 1:].exp()], 1),  # something is computed on the way
    ],
)
def test_other_concatenations_stay(function: Function) -> None:
    model = Lambda(lambda m, x: function(m, x.relu()), row=tensor(2, 1, 4, seed=1))
    assert operators(run_pass(join_rows, model, tensor(2, 6, 4)))["cat.default"] == 1
