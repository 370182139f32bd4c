"""Rotates the residual stream, so that no channel of a LayerNorm's output stands out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    add_to_bias,
    aten,
    call,
    change_constant,
    clean_up,
    constant,
    is_call,
    is_constant,
    is_trainable,
    replacing,
    shape_of,
)
from .layout import is_layout
from .patterns import (
    Embedding,
    adds_to_stream,
    averages_tokens,
    is_residual_add,
    linears_behind,
    match_embedding,
    pools_tokens,
    readers,
    reads_as_linear,
)
from .rotations import mean_keeping_rotation

logger = logging.getLogger(__name__)

_ACTIVATION = torch.ops.packqvit.activation.default
_INNER = (aten.linear.default, aten.layer_norm.default, aten.softmax.int)


@dataclasses.dataclass
class _Readers:
    """What reads a LayerNorm.

    Attributes:
        linears: That can take the rotation back in their weights.
        activations: Identities in front of some of them, for what others read too.
        outlets: The LayerNorm, or means of its tokens, each with what takes it out of the model.
    """

    linears: list[Node] = dataclasses.field(default_factory=list)
    activations: list[Node] = dataclasses.field(default_factory=list)
    outlets: dict[Node, list[Node]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class _Stream:
    """What writes into a residual stream, and what reads it.

    Attributes:
        embedding: Where it begins.
        branches: The linears whose outputs are added to it.
        norms: The LayerNorms that read it, each with what reads it.
    """

    embedding: Embedding
    branches: list[Node] = dataclasses.field(default_factory=list)
    norms: dict[Node, _Readers] = dataclasses.field(default_factory=dict)


def rotate_residual(graph_module: GraphModule, seed: int = 0) -> GraphModule:
    """Multiplies the residual stream with a random orthogonal Q, and takes it back in the weights behind LayerNorms.

    Before: x = x + linear(y, W, b);     linear(layer_norm(x, g, e), V, c)
    After:  x = x + linear(y, Q W, Q b); linear(layer_norm(x, 1, 0), V diag(g) Q^T, c + V e), the same function

    The embedding is rotated with the stream. Q 1 = 1, so that mean and variance of every token stay and a LayerNorm
    without weights gives the rotated output of before. Every channel of that output is a sum over all channels of
    before: close to a normal distribution, which few steps hold with less error than one with long tails. The same goes
    for the weights. Nothing is added that runs.

    What a LayerNorm gives out of the model, embeddings or tokens, is rotated back by one linear more:

    Before: output(layer_norm(x, g, e))
    After:  output(linear(layer_norm(x, 1, 0), diag(g) Q^T, e))

    That is one of the last layers, of 8 bits. It costs C^2 bytes, 1 % of a ViT-Tiny, and a product for each token that
    leaves.

    A stream that anything else reads stays as it is, which is logged.

    Source: Ashkboos et al., "QuaRot", NeurIPS 2024, section 4 (stage 1a), for RMSNorm, which every rotation leaves
    alone; that a rotation with Q 1 = 1 serves LayerNorm without turning it into RMSNorm, this project.

    Args:
        graph_module: Canonical float graph; changed in place.
        seed: Of the rotation.
    """
    generator = torch.Generator().manual_seed(seed)
    for embedding in [e for e in map(match_embedding, graph_module.graph.nodes) if e is not None]:
        stream = _follow(embedding)
        if isinstance(stream, str):
            logger.info("the residual stream is not rotated: %s", stream)
        else:
            _rotate(graph_module, stream, mean_keeping_rotation(shape_of(embedding.output)[-1], generator))
    return clean_up(graph_module)


def _follow(embedding: Embedding) -> _Stream | str:
    """All readers and writers of the stream, or what makes it one that cannot be rotated."""
    stream = _Stream(embedding)
    convolution = embedding.convolution
    if not all(map(is_constant, (argument for argument in convolution.args[1:3] if argument is not None))):
        return f"the parameters of {convolution.name} are not constants"
    for tokens in (embedding.position, embedding.prefix):
        if tokens is not None and len(tokens.users) != 1:
            return f"{tokens.target} is read more than once"
    waiting, seen = [embedding.output], {embedding.output}
    while waiting:
        value = waiting.pop()
        reading = readers(value)
        if reading is None:
            return f"tokens of {value.name} are taken apart"
        for user, through in reading:
            if is_call(user, aten.layer_norm.default):
                found = _readers_of(user) if _normalizes_channels(user) else None
                if found is None:
                    return f"{user.name} is no LayerNorm of channels, with weights, that feeds linears or the output"
                stream.norms[user] = found
                continue
            if is_residual_add(user):
                branch: Any = user.args[1]
                if user.args[0] is not through or not all(map(is_constant, branch.args[1:])):
                    return f"{user.name} adds what is not the output of a linear with constant parameters"
                stream.branches.append(branch)
            elif not averages_tokens(user) and not _scales(user):
                return f"{user.name} reads it"
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return stream


def _readers_of(norm: Node) -> _Readers | None:
    """What reads a LayerNorm, or None where its values are needed as they are inside the model."""
    found = _Readers()
    _sort_readers(norm, found)
    return found if all(map(_leaves, itertools.chain(*found.outlets.values()))) else None


def _sort_readers(value: Node, found: _Readers) -> None:
    """Adds what reads a LayerNorm, or a mean of its tokens."""
    for user in value.users:
        behind = readers(user) if is_layout(user) else [(user, value)]
        if not behind or not all(reader.args[0] is through and _reads_rows(reader) for reader, through in behind):
            found.outlets.setdefault(value, []).append(user)
            continue
        for reader, _ in behind:
            if averages_tokens(reader):
                _sort_readers(reader, found)
            elif is_call(reader, _ACTIVATION):
                found.activations.append(reader)
                found.linears += linears_behind(reader, averages_tokens) or []
            else:
                found.linears.append(reader)


def _reads_rows(reader: Node) -> bool:
    """Whether what reads rows is a linear, an identity for linears alone, or their mean."""
    return (
        reads_as_linear(reader)
        or averages_tokens(reader)
        or is_call(reader, _ACTIVATION)
        and linears_behind(reader, averages_tokens) is not None
    )


def _leaves(value: Node) -> bool:
    """Whether nothing that an operator leads to has weights, or integers, of its own."""
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop()
        if is_call(node, *_INNER) or pools_tokens(node) or adds_to_stream(node):
            return False
        more = [user for user in node.users if user not in seen]
        seen.update(more)
        waiting += more
    return True


def _scales(node: Node) -> bool:
    """Whether a node multiplies all channels by one number, as in a scaled skip."""
    return is_call(node, aten.mul.Tensor) and isinstance(node.args[1], float)


def _normalizes_channels(norm: Node) -> bool:
    """Whether a LayerNorm is over the last axis alone, with constant weights."""
    shape: Any = norm.args[1]
    return len(shape) == 1 and len(norm.args) >= 4 and all(map(is_constant, norm.args[2:4]))


def _rotate(graph_module: GraphModule, stream: _Stream, rotation: torch.Tensor) -> None:
    def rotate(parameter: torch.Tensor) -> torch.Tensor:
        """Of a weight or bias, whose axis 0 are output channels."""
        return torch.tensordot(rotation, parameter, dims=1)

    _rotate_embedding(graph_module, stream.embedding, rotate)
    for branch in stream.branches:
        for index in range(1, len(branch.args)):
            change_constant(graph_module, branch, index, rotate)
    for norm, behind in stream.norms.items():
        weight, bias = (constant(graph_module, argument).double() for argument in norm.args[2:4])  # type: ignore
        for linear in behind.linears:
            _take_back(graph_module, linear, weight, bias, rotation)
        for outlet, users in behind.outlets.items():
            _rotate_back(graph_module, norm, outlet, users, weight.unsqueeze(1) * rotation.T, bias)
        for activation in behind.activations:  # linears alone read the norm now
            activation.replace_all_uses_with(activation.all_input_nodes[0])
        change_constant(graph_module, norm, 2, torch.ones_like)
        change_constant(graph_module, norm, 3, torch.zeros_like)


def _rotate_embedding(
    graph_module: GraphModule, embedding: Embedding, rotate: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    convolution = embedding.convolution
    for index in range(1, min(3, len(convolution.args))):
        if convolution.args[index] is not None:
            change_constant(graph_module, convolution, index, rotate)
    for tokens in (embedding.position, embedding.prefix):
        if tokens is None:
            continue
        value = constant(graph_module, tokens)
        rotated = rotate(value.double().movedim(-1, 0)).movedim(0, -1).to(value.dtype)
        with graph_module.graph.inserting_before(tokens):
            new = add_constant(graph_module, rotated, str(tokens.target), is_trainable(graph_module, tokens))
        tokens.replace_all_uses_with(new)


def _take_back(
    graph_module: GraphModule, linear: Node, norm_weight: torch.Tensor, norm_bias: torch.Tensor, rotation: torch.Tensor
) -> None:
    """Lets a linear read what LayerNorm gives of a rotated stream without weights of its own."""
    weight = constant(graph_module, linear.args[1])  # type: ignore[arg-type]
    add_to_bias(graph_module, linear, (weight.double() @ norm_bias).to(weight.dtype))
    change_constant(graph_module, linear, 1, lambda before: before * norm_weight @ rotation.T)


def _rotate_back(
    graph_module: GraphModule, norm: Node, outlet: Node, users: list[Node], weight: torch.Tensor, bias: torch.Tensor
) -> None:
    """Puts a linear between a LayerNorm, or a mean of its tokens, and what takes it out of the model."""
    parameters: Any = norm.args[2:4]
    with replacing(graph_module, outlet.next, like=norm):
        constants = [
            add_constant(graph_module, value.float(), f"{old.target}_back", is_trainable(graph_module, old))
            for value, old in zip((weight, bias), parameters, strict=True)
        ]
        linear = call(graph_module, aten.linear.default, outlet, *constants)
    for user in users:
        user.replace_input_with(outlet, linear)
