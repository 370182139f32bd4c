"""Gives every node its fake tensor again after torchao rewrote the graph."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .graph import constant


def propagate_values(graph_module: GraphModule) -> GraphModule:
    """Sets `meta["val"]` of every constant and operator from that of the placeholders.

    Observers, and the q/dq nodes that convert_pt2e puts in their place, carry no value of their own.
    """
    mode = _mode(graph_module)
    with mode, torch.no_grad():
        for node in graph_module.graph.nodes:
            if node.op == "get_attr":
                value = constant(graph_module, node)
                node.meta["val"] = mode.from_tensor(value, static_shapes=True)
            elif node.op == "call_function":
                args, kwargs = map_arg((node.args, node.kwargs), _value)
                node.meta["val"] = node.target(*args, **kwargs)
    return graph_module


def _value(node: Node) -> Any:
    return node.meta["val"]


def _mode(graph_module: GraphModule) -> FakeTensorMode:
    for node in graph_module.graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), FakeTensor):
            return node.meta["val"].fake_mode
    raise ValueError("no input of the graph has a fake tensor: take it from torch.export.export(...).module()")
