"""Gives each output of a float graph a grid of its own, for programs whose outputs are codes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .graph import call, clean_up, is_call, replacing
from .layout import is_layout, trace
from .patterns import adds_to_stream, match_embedding, normalizes, pools_tokens, reads_as_linear

ops = torch.ops.packqvit


def mark_outputs(graph_module: GraphModule) -> GraphModule:
    """Puts an identity behind what the model gives out, in front of its moves; functions of one variable need none.

    The identity gets codes of 8 bits, decided on what leaves and nothing else (packqvit_delegate/ops/activation.py).

    before: output(select(norm)), linear(norm)
    after:  output(select(activation(norm))), linear(norm)
    """
    (output,) = graph_module.graph.find_nodes(op="output")
    embeddings = {found.output for found in map(match_embedding, graph_module.graph.nodes) if found is not None}
    made: dict[Node, Node] = {}

    def marked(node: Node) -> Node:
        value, moves = trace(node, lambda passed: is_layout(passed) and passed not in embeddings)
        if not _has_grid(value) and value not in embeddings:
            return node
        if value not in made:
            with replacing(graph_module, value.next, like=value):
                made[value] = call(graph_module, ops.activation.default, value)
        result = made[value]
        for move in moves:
            with replacing(graph_module, output, like=move):
                args: Any = (result, *move.args[1:])
                result = call(graph_module, move.target, *args, **move.kwargs)  # type: ignore[arg-type]
        return result

    output.args = map_arg(output.args, marked)
    return clean_up(graph_module)


def _has_grid(value: Node) -> bool:
    """Whether a value has codes of more than 8 bits, or accumulators, where it leaves in float."""
    computes = normalizes(value) or pools_tokens(value) or reads_as_linear(value) or adds_to_stream(value)
    return computes and not is_call(value, ops.activation.default)
