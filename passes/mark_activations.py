"""Marks where linears read values of 16 bits: the residual stream itself, or what others than linears read too."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch.fx import GraphModule, Node

from .graph import aten, call, clean_up, find, is_call, keep_module, shape_of
from .layout import joined_rows
from .patterns import (
    adds_to_stream,
    is_input,
    is_shared,
    joins_streams,
    match_embedding,
    normalizes,
    pools_tokens,
    reads_as_linear,
    stream_of,
    streams_of,
)

ops = torch.ops.packqvit


def mark_activations(graph_module: GraphModule) -> GraphModule:
    """Puts an identity in front of linears that read 16 bits, or an input: what they read gets codes of its own.

    That is the stream, which post-norm models, as Swin v2, read everywhere; and a LayerNorm, a mean of tokens or a
    linear that something else reads as well, such as the model's output. All linears that read the same tokens read one
    identity.

    before: linear(x), linear(reshape(x)), add(x, branch); linear(norm), output(norm)
    after:  linear(activation(x)), linear(activation(reshape(x))), add(x, branch);
            linear(activation(norm)), output(norm)
    """
    streams = _streams(graph_module) | _shared(graph_module)
    made: dict[Hashable, Node] = {}
    for linear in find(graph_module, aten.linear.default):
        value, origin = linear.args[0], stream_of(linear)
        if origin not in streams or not reads_as_linear(linear):
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
        if adds_to_stream(node) or joins_streams(node):
            found.update((node, *streams_of(node)))
        elif is_call(node, aten.layer_norm.default):
            found.add(stream_of(node))
    return found


def _shared(graph_module: GraphModule) -> set[Node]:
    """The LayerNorms, means of tokens and linears that linears and others read."""
    return {
        node
        for node in graph_module.graph.nodes
        if (normalizes(node) or pools_tokens(node) or reads_as_linear(node)) and is_shared(node)
    }


def _tokens(origin: Node, value: Node) -> Hashable:
    """Which rows of a stream a value holds."""
    if origin is value:
        return origin
    rows = joined_rows(origin, value)
    assert rows is not None
    return origin, shape_of(value), tuple(rows.flatten().tolist())
