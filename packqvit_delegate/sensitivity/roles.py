"""Where in a Vision Transformer an operator of the integer graph stands: its block, and what it does there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..passes.graph import aten, find, is_call, shape_of
from ..passes.patterns import layer_name

ops = torch.ops.packqvit

_ADDS = (ops.linear_add.default, ops.layer_norm_add.default)
_MOVES = (ops.select_tokens.default, aten.reshape.default)

ROLES = (
    "image",
    "embedding",
    "norm 1",
    "q",
    "k",
    "v",
    "probabilities",
    "attention",
    "stream 1",
    "norm 2",
    "fc1",
    "activation",
    "product",
    "stream 2",
    "norm",
    "pooling",
    "linear",
    "logits",
    "output",
)
"""In the order of a block: `stream 1` is the residual stream behind attention, `stream 2` that behind the MLP."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an operator stands.

    Attributes:
        layer: Module that it came from, e.g. `blocks.3.mlp.fc1`.
        block: Number of its block; -1 before the first one, the number of blocks behind the last one.
        role: One of ROLES.
    """

    layer: str
    block: int
    role: str


def block_count(integer: GraphModule) -> int:
    """Number of blocks: of attentions."""
    return len(find(integer, ops.softmax.default))


def places(integer: GraphModule) -> dict[Node, Place]:
    """The place of each `packqvit` operator that computes; those that only move codes have none."""
    blocks, additions = block_count(integer), len(find(integer, *_ADDS))
    found: dict[Node, Place] = {}
    block, added = -1, 0
    for node in integer.graph.nodes:
        role = _role(node)
        if role is None:
            continue
        if role != "image" and role != "embedding":
            block = min(added * blocks // additions, blocks) if additions else blocks
        added += is_call(node, *_ADDS)
        found[node] = Place(layer_name(node), block, role)
    return found


def selected_tokens(integer: GraphModule) -> dict[Node, list[int]]:
    """For each node that holds only some of the tokens, behind a select_tokens that leaves some out: which ones."""
    tokens: dict[Node, list[int]] = {}
    for node in integer.graph.nodes:
        source = node.args[0] if node.op == "call_function" and node.args else None
        before = tokens.get(source) if isinstance(source, Node) else None
        if is_call(node, ops.select_tokens.default) and len(node.args[1]) < shape_of(source)[1]:
            index = [int(i) for i in node.args[1]]
            tokens[node] = index if before is None else [before[i] for i in index]
        elif before is not None:
            tokens[node] = before
    return tokens


def _role(node: Node) -> str | None:
    roles: dict[Any, Any] = {
        ops.quantize.default: lambda: "image" if _from_input(node) else None,
        ops.patch_embedding.default: lambda: "embedding",
        ops.layer_norm.default: lambda: _norm(node),
        ops.requantize.default: lambda: _norm(node),
        ops.linear.default: lambda: _linear(node) or "linear",
        ops.softmax.default: lambda: "probabilities",
        ops.attention_values.default: lambda: "attention",
        ops.lookup_table.default: lambda: "activation",
        ops.multiply.default: lambda: "product",
        ops.linear_add.default: lambda: _stream(node.args[0]),
        ops.layer_norm_add.default: lambda: _stream(_branch(node)),
        ops.mean_tokens.default: lambda: "pooling",
        ops.max_tokens.default: lambda: "pooling",
    }
    return roles[node.target]() if node.op == "call_function" and node.target in roles else None


def _users(node: Node) -> Iterator[tuple[Node, int]]:
    """Users of a value and the argument that it is, seen through moves."""
    for user in node.users:
        if is_call(user, *_MOVES):
            yield from _users(user)
        else:
            yield user, list(user.args).index(node) if node in user.args else -1


def _linear(node: Node) -> str | None:
    for user, argument in _users(node):
        if is_call(user, ops.attention_scores.default):
            return "q" if argument == 0 else "k"
        if is_call(user, ops.add_relative_bias.default):
            return "q"
        if is_call(user, ops.attention_values.default):
            return "v"
        if is_call(user, ops.head_norm.default, ops.rotate.default):
            return _linear(user)
        if is_call(user, ops.lookup_table.default, ops.multiply.default):
            return "fc1"
    return None


def _norm(node: Node) -> str:
    names = {_linear(user) for user, _ in _users(node) if is_call(user, ops.linear.default)}
    if names & {"q", "k", "v"}:
        return "norm 1"
    return "norm 2" if "fc1" in names else "norm"


def _from_input(node: Node) -> bool:
    return isinstance(node.args[0], Node) and node.args[0].op == "placeholder"


def _unmoved(source: Any) -> Any:
    while is_call(source, *_MOVES):
        source = source.args[0]
    return source


def _branch(norm: Node) -> Any:
    """What the linear before a post-norm reads."""
    linear = _unmoved(norm.args[0])
    return linear.args[0] if is_call(linear, ops.linear.default) else linear


def _stream(source: Any) -> str:
    source = _unmoved(source)
    return "stream 1" if is_call(source, ops.attention_values.default) else "stream 2"
