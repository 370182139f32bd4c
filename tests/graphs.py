"""Runs one pass on the graph of a small function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from models import export


class Lambda(nn.Module):
    """A function of one tensor, and the modules and tensors it uses as attributes of `self`."""

    def __init__(self, function: Callable[..., Any], **state: Any) -> None:
        super().__init__()
        self.function = function
        for name, value in state.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def operators(graph_module: GraphModule) -> Counter[str]:
    """How often the graph calls each ATen operator, by name without "aten."."""
    nodes = graph_module.graph.nodes
    return Counter(str(node.target).removeprefix("aten.") for node in nodes if node.op == "call_function")


def run_pass(
    transform: Callable[[GraphModule], GraphModule], model: nn.Module, x: Tensor, atol: float = 1e-5
) -> GraphModule:
    """Exports `model`, runs the pass twice and checks that the function stays and the second run changes nothing."""
    graph_module = export(model, x)
    returned = transform(graph_module)
    assert returned is graph_module
    first = operators(graph_module)
    transform(graph_module)
    assert operators(graph_module) == first
    with torch.no_grad():
        expected, actual = model(x), graph_module(x)
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-4)
    return graph_module


def tensor(*shape: int, seed: int = 0) -> Tensor:
    """Normal random numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
