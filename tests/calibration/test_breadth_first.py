"""Running a graph node by node."""

from __future__ import annotations

import weakref

import torch
from torch import fx

from packqvit_delegate.calibration.breadth_first import Stream
from packqvit_delegate.passes.graph import aten


def _graph() -> tuple[fx.GraphModule, list[fx.Node]]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    relu = graph.call_function(aten.relu.default, (x,))
    total = graph.call_function(aten.add.Tensor, (relu, relu))
    graph.output((total,))
    return fx.GraphModule(torch.nn.Module(), graph), [x, relu, total]


def test_a_dying_value_is_freed_batch_by_batch() -> None:
    module, (x, relu, total) = _graph()
    stream = Stream(module, [(torch.tensor([[-1.0, float(i)]]),) for i in range(3)], 1)
    stream.run(x)
    stream.run(relu)
    held = [weakref.ref(value) for value in stream[relu]]
    alive: list[int] = []

    def watched(value: torch.Tensor) -> torch.Tensor:
        alive.append(sum(reference() is not None for reference in held))
        return value + value

    stream.apply(total, relu, watched, dying=[relu])
    assert alive == [3, 2, 1]
    assert [value.tolist() for value in stream[total]] == [[[0.0, 2.0 * i]] for i in range(3)]


def test_what_was_passed_on_outlives_its_source() -> None:
    module, (x, relu, total) = _graph()
    stream = Stream(module, [(torch.ones(1, 2),), (2 * torch.ones(1, 2),)], 1)
    stream.run(x)
    stream.pass_on(relu, x)
    stream.run(total, dying=[relu])
    assert [value.tolist() for value in stream[total]] == [[[2.0, 2.0]], [[4.0, 4.0]]]
    assert [value.tolist() for value in stream[x]] == [[[1.0, 1.0]], [[2.0, 2.0]]]
