"""Marks where linears read the residual stream itself, without a LayerNorm in front of them."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch.fx import GraphModule, Node

from .graph import aten, call, clean_up, find, is_call, is_constant, keep_module, shape_of
from .layout import joined_rows
from .patterns import adds_to_stream, is_input, match_embedding, stream_of

ops = torch.ops.packqvit


def mark_activations(graph_module: GraphModule) -> GraphModule:
    """Puts an identity between a stream, or an input, and the linears that read it: they read codes of their own.

    All linears that read the same tokens read one of them. Post-norm models, as Swin v2, read the stream everywhere.

    before: linear(x), linear(reshape(x)), add(x, branch)
    after:  linear(activation(x)), linear(activation(reshape(x))), add(x, branch)
    """
    streams = _streams(graph_module)
    made: dict[Hashable, Node] = {}
    for linear in find(graph_module, aten.linear.default):
        value, *parameters = linear.args
        origin = stream_of(linear)
        if origin not in streams or not all(operand is None or is_constant(operand) for operand in parameters):
            continue
        assert isinstance(value, Node)
        key = _tokens(origin, value)
        if key not in made:
            with graph_module.graph.inserting_before(linear):
                made[key] = keep_module(call(graph_module, ops.activation.default, value), linear)
        linear.update_arg(0, made[key])
    return clean_up(graph_module)


def _streams(graph_module: GraphModule) -> set[Node]:
    """The inputs, and the values that additions and LayerNorms read or write as a residual stream."""
    found = {node for node in graph_module.graph.nodes if is_input(node)}
    found |= {embedding.output for embedding in map(match_embedding, graph_module.graph.nodes) if embedding is not None}
    for node in graph_module.graph.nodes:
        if adds_to_stream(node):
            found.update((node, stream_of(node)))
        elif is_call(node, aten.layer_norm.default):
            found.add(stream_of(node))
    return found


def _tokens(origin: Node, value: Node) -> Hashable:
    """Which rows of a stream a value holds."""
    if origin is value:
        return origin
    rows = joined_rows(origin, value)
    assert rows is not None
    return origin, shape_of(value), tuple(rows.flatten().tolist())
