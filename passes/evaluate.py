"""Computes a part of a graph on numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import aten, scalar_value


def evaluate(
    graph_module: GraphModule, source: Node, nodes: list[Node], x: Tensor, passed_over: Collection[object] = ()
) -> Tensor:
    """What the last of some operators gives where `source` has the value `x`.

    Args:
        graph_module: Holds the constants; those of one element are read.
        source: The one value from outside.
        nodes: In the order of the graph.
        x: Of any shape that the operators take.
        passed_over: Operators whose first operand is taken for their result.
    """
    values: dict[Node, Tensor] = {source: x}

    def operand(argument: Any) -> Any:
        if not isinstance(argument, Node):
            return argument
        return values[argument] if argument in values else scalar_value(graph_module, argument)

    for node in nodes:
        first, *rest = map(operand, node.args)
        first = torch.as_tensor(first, dtype=x.dtype)
        if node.target is aten.maximum.default:
            rest = [torch.as_tensor(value, dtype=x.dtype) for value in rest]
        passes = node.target in passed_over
        values[node] = first if passes else node.target(first, *rest, **node.kwargs)  # type: ignore[operator]
    return values[nodes[-1]]
