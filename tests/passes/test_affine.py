"""A value as a product and a sum of what is in front of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphs import Lambda, tensor
from models import export
from packqvit_delegate.passes.affine import read_affine, varying_axes

SHAPE = (2, 3, 4)
STATE = {
    "row": tensor(4),
    "column": tensor(3, 1, seed=1),
    "std": tensor(3, 1, seed=5).abs() + 0.1,
    "full": tensor(1, 3, 4, seed=2),
    "each": tensor(2, 1, 1, seed=3),
    "repeated": torch.ones(2, 3, 4) * 5,
    "whole": torch.ones(4, dtype=torch.int64),
}
VALUES: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, int]]] = {
    "nothing": (lambda m, x: x, (0, 0)),
    "positions": (lambda m, x: x + m.full, (1, 3)),
    "first": (lambda m, x: m.full + x, (1, 3)),
    "pixels": (lambda m, x: (x - m.column) / m.std, (1, 2)),
    "bytes": (lambda m, x: x / 255 * 2 - 1, (0, 0)),
    "in order": (lambda m, x: ((x + m.row) * 3 - m.full) * m.row, (1, 3)),
    "from a number": (lambda m, x: 2 - x, (0, 0)),
    "from a tensor": (lambda m, x: m.row - x, (2, 3)),
    "reversed": (lambda m, x: torch.rsub(x, 3, alpha=2), (0, 0)),
    "alpha": (lambda m, x: torch.sub(x, m.row, alpha=2), (2, 3)),
    "alpha of the value": (lambda m, x: torch.add(m.row, x, alpha=-0.5), (2, 3)),
    "negative": (lambda m, x: -x, (0, 0)),
    "for each image": (lambda m, x: x + m.each, (0, 1)),
    "the same everywhere": (lambda m, x: x + m.repeated, (0, 0)),
}


def read(function: Callable[[Any, Tensor], Tensor], x: Tensor) -> tuple[Any, Tensor]:
    graph_module = export(Lambda(lambda m, x: function(m, x.sin()), **STATE), x)
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    return read_affine(graph_module, output.args[0][0]), graph_module(x)


@pytest.mark.parametrize("name", VALUES)
def test_it_is_the_same_value(name: str) -> None:
    function, axes = VALUES[name]
    x = tensor(*SHAPE, seed=4)
    found, expected = read(function, x)
    assert str(found.source.target) == "aten.sin.default"
    torch.testing.assert_close((found.factor * x.sin() + found.offset).float(), expected)
    assert varying_axes(found.factor, found.offset) == axes


STOPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a quotient of the value": lambda m, x: 1 / x,
    "a division by zero": lambda m, x: x / torch.zeros(4),
    "two values": lambda m, x: x + x,
    "a value that grows": lambda m, x: x[:1] + m.repeated,
    "a function": lambda m, x: x.tanh(),
    "rounding": lambda m, x: torch.div(x, 2, rounding_mode="floor"),
}


@pytest.mark.parametrize("name", STOPS)
def test_it_ends_at_what_is_neither(name: str) -> None:
    found, _ = read(STOPS[name], tensor(*SHAPE))
    assert str(found.source.target) != "aten.sin.default"


def test_so_many_steps_at_most() -> None:
    graph_module = export(Lambda(lambda m, x: x * 2 + 1), tensor(*SHAPE))
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    for steps, target in ((0, "add"), (1, "mul")):
        assert target in str(read_affine(graph_module, output.args[0][0], steps).source.target)
    assert read_affine(graph_module, output.args[0][0]).source.op == "placeholder"
