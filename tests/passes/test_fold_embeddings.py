from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import fold_constants, fold_embeddings, remove_no_ops
from packqvit_delegate.passes.patterns import match_embedding

B, P, D = 2, 4, 6


def fold(graph_module: GraphModule) -> GraphModule:
    return fold_embeddings(remove_no_ops(fold_constants(graph_module)))


def cat_add(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([m.token.expand(B, -1, -1), x], 1) + m.positions[:, : P + 1]


def distilled(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([m.token.expand(B, -1, -1), m.registers[:, :1].expand(B, -1, -1), x], dim=1) + m.positions[:, :6]


def add_cat(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cat((m.token.expand(B, -1, -1), m.positions[0, :P] + x), -2)


def registers_between(m: nn.Module, x: Tensor) -> Tensor:
    x = cat_add(m, x)
    return torch.cat([x[:, :1], m.registers.expand(B, -1, -1), x[:, 1:]], 1)


def twice(m: nn.Module, x: Tensor) -> Tensor:
    return cat_add(m, x + m.positions[:, :P]) + m.positions[:, 1 : P + 2]


def split_and_joined(m: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([m.token.expand(B, -1, -1), x[:, :1], x[:, 1:]], 1) + m.positions[:, : P + 1]


FORMS: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int, bool]] = {
    "cat_add": (cat_add, 1, True),
    "distilled": (distilled, 2, True),
    "add_cat": (add_cat, 1, True),
    "registers_between": (registers_between, 4, True),
    "twice": (twice, 1, True),
    "split_and_joined": (split_and_joined, 1, True),
    "no_prefix": (lambda m, x: x + m.positions[:, :P], 0, True),
    "no_position": (lambda m, x: torch.cat([m.token.expand(B, -1, -1), x], 1), 1, False),
    "nothing": (lambda m, x: x, 0, False),
}
PATCHES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda y: y.flatten(2).transpose(1, 2),
    "reshape": lambda y: y.reshape(B, D, P).permute(0, 2, 1),
    "map": lambda y: y,
    "channels_last": lambda y: y.permute(0, 2, 3, 1).reshape(B, P, D),
}


def embedding(function: Callable[[nn.Module, Tensor], Tensor], patches: str = "flatten") -> Lambda:
    return Lambda(
        lambda m, x: torch.relu(function(m, PATCHES[patches](m.conv(x)))),
        conv=nn.Conv2d(3, D, 4, 4),
        token=nn.Parameter(tensor(1, 1, D)),
        registers=nn.Parameter(tensor(1, 3, D, seed=1)),
        positions=nn.Parameter(tensor(1, 8, D, seed=2)),
    )


@pytest.mark.parametrize("patches", [name for name in PATCHES if name != "map"])
@pytest.mark.parametrize("name", FORMS)
def test_form(name: str, patches: str) -> None:
    function, prefix, position = FORMS[name]
    graph_module = run_pass(fold, embedding(function, patches), tensor(B, 3, 8, 8), atol=1e-6)
    counts = operators(graph_module)
    expected = {"conv2d.default": 1, "reshape.default": 1, "transpose.int": 1, "relu.default": 1}
    expected |= {"add.Tensor": 1} if position else {}
    expected |= {"cat.default": 1} if prefix else {}
    assert counts == expected
    parameters = {name: tuple(p.shape) for name, p in graph_module.named_parameters() if not name.startswith("conv")}
    shapes = ({"position": (1, P, D)} if position else {}) | ({"prefix": (B, prefix, D)} if prefix else {})
    if name not in ("no_prefix", "no_position"):
        assert parameters == shapes
    assert set(parameters.values()) == set(shapes.values())


def windows(x: Tensor, height: int = 1, width: int = 2) -> Tensor:
    """Of a map [B, D, 2, 2]: [B * windows, height * width, D]."""
    x = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, height * width, D)


REORDERED: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], int, bool]] = {
    "suffix": (lambda m, x: torch.cat([tokens(x), m.token.expand(B, -1, -1)], 1) + m.positions[:, : P + 1], 1, True),
    "in_the_middle": (
        lambda m, x: torch.cat([tokens(x)[:, :2], m.token.expand(B, -1, -1), tokens(x)[:, 2:]], 1) + m.positions[:, 3:],
        1,
        True,
    ),
    "halves_exchanged": (lambda m, x: torch.cat([tokens(x)[:, 2:], tokens(x)[:, :2]], 1) + m.positions[:, :P], 0, True),
    "rolled": (lambda m, x: tokens(x).roll(1, 1) + m.positions[:, :P], 0, True),
    "flipped": (lambda m, x: tokens(x.flip(3)) + m.positions[:, :P], 0, True),
    "columns_first": (lambda m, x: tokens(x.transpose(2, 3)) + m.positions[:, :P], 0, True),
    "dropped": (lambda m, x: tokens(x)[:, 1:] + m.positions[:, : P - 1], 0, True),
    "windows": (lambda m, x: windows(x, 2, 1), 0, False),
    "position_in_windows": (lambda m, x: windows(x, 2, 1) + m.positions[:, :2], 0, True),
    "position_on_the_map": (lambda m, x: windows(x + m.grid, 2, 1), 0, True),
    "token_in_windows": (
        lambda m, x: torch.cat([m.token.expand(2 * B, -1, -1), windows(x)], 1) + m.positions[:, :3],
        2,
        True,
    ),
    "split": (lambda m, x: torch.cat([m.token.expand(B, -1, -1), *tokens(x).split([3, 1], 1)[::-1]], 1), 1, False),
}


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("name", REORDERED)
def test_patches_in_another_order(name: str) -> None:
    function, prefix, position = REORDERED[name]
    model = embedding(function, "map")
    model.grid = nn.Parameter(tensor(1, D, 2, 2, seed=3))
    graph_module = run_pass(fold, model, tensor(B, 3, 8, 8), atol=1e-6)
    counts = operators(graph_module)
    assert (counts["add.Tensor"], counts["cat.default"], counts["index_select.default"]) == (position, prefix > 0, 1)
    shapes = ({"position": (1, P, D)} if position else {}) | ({"prefix": (B, prefix, D)} if prefix else {})
    found = {name: tuple(p.shape) for name, p in graph_module.named_parameters() if name in ("position", "prefix")}
    assert found == shapes
    (index,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.index_select.default)
    (end,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.conv2d.default)
    embedded = match_embedding(end)
    assert embedded is not None and embedded.output is index.args[0]


LEFT_ALONE: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "read_before": lambda m, x: torch.cat([x + m.positions[:, :P], x.sigmoid()], 1),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_left_alone(name: str) -> None:
    counts = operators(run_pass(fold, embedding(LEFT_ALONE[name]), tensor(B, 3, 8, 8), atol=1e-6))
    assert counts["add.Tensor"] == 1 and counts["cat.default"] == 1
