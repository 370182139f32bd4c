from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import raise_moves, remove_no_ops
from packqvit_delegate.passes.graph import aten, find, is_call

C = 4


def together(x: Tensor, height: int, width: int) -> Tensor:
    """Windows [B * windows, height * width, C] of a map of 4 x 4 -> [B, 4, 4, C]."""
    x = x.reshape(-1, 4 // height, 4 // width, height, width, C)
    return x.transpose(2, 3).reshape(-1, 4, 4, C)


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "squares": lambda y: together(y.reshape(-1, 4, C), 2, 2).flatten(1, 2),
    "stripes": lambda y: together(y.reshape(-1, 8, C), 2, 4).flatten(1, 2),
    "columns": lambda y: together(y.reshape(-1, 4, C), 4, 1).flatten(1, 2),
    "shifted": lambda y: together(y.reshape(-1, 4, C), 2, 2).roll((1, 1), (1, 2)).flatten(1, 2),
    "rolled": lambda y: y.reshape(-1, 16, C).roll(3, 1),
    "through_channels_first": lambda y: together(y.reshape(-1, 4, C), 2, 2).permute(0, 3, 1, 2).flatten(2).mT,
}


@pytest.mark.parametrize("name", MOVES)
def test_the_linear_runs_on_moved_tokens(name: str) -> None:
    move = MOVES[name]
    model = Lambda(lambda m, x: x + move(m.fc(x.relu().reshape(-1, 4, C))), fc=nn.Linear(C, C))
    graph_module = run_pass(lambda g: remove_no_ops(raise_moves(g)), model, tensor(2, 16, C))
    (addition,) = find(graph_module, aten.add.Tensor)
    assert is_call(addition.args[1], aten.linear.default)
    assert operators(graph_module)["index_select.default"] <= 1


STAY: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "a_transposition": lambda m, x: x.transpose(0, 1) + m.fc(x.relu()).transpose(0, 1),
    "channels_move": lambda m, x: x + m.fc(x.relu()).reshape(2, C, 16).mT,
    "read_twice": lambda m, x: (lambda y: x + y.roll(1, 1) + y.sum())(m.fc(x.relu())),
}


@pytest.mark.parametrize("name", STAY)
def test_what_stays(name: str) -> None:
    graph_module = run_pass(raise_moves, Lambda(STAY[name], fc=nn.Linear(C, C)), tensor(2, 16, C))
    (linear,) = find(graph_module, aten.linear.default)
    assert is_call(linear.args[0], aten.relu.default)
    assert not find(graph_module, torch.ops.aten.index_select.default)


@pytest.mark.parametrize("name", MOVES)
def test_so_does_a_post_norm(name: str) -> None:
    move = MOVES[name]
    for function in (
        lambda m, x: x + move(m.norm(m.fc(x.relu().reshape(-1, 4, C)))),
        lambda m, x: x + m.norm(move(m.fc(x.relu().reshape(-1, 4, C)))),
    ):
        model = Lambda(function, fc=nn.Linear(C, C), norm=nn.LayerNorm(C))
        graph_module = run_pass(lambda g: remove_no_ops(raise_moves(g)), model, tensor(2, 16, C))
        (addition,) = find(graph_module, aten.add.Tensor)
        norm = addition.args[1]
        assert is_call(norm, aten.layer_norm.default) and is_call(norm.args[0], aten.linear.default)  # type: ignore
        assert operators(graph_module)["index_select.default"] <= 1
