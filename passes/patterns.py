"""Recognises the parts of a canonical Vision Transformer graph, with or without q/dq nodes in it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .attention import Attention, match_attention
from .codes import skip_codes
from .graph import arguments, aten, dtype_of, has_tensor, is_call, is_constant, shape_of
from .head_norm import match_row_norm
from .layout import NOTHING, is_layout, joined_rows, trace
from .reasons import module_path

UNARY_FUNCTIONS: tuple[torch._ops.OpOverload, ...] = (
    aten.gelu.default,
    torch.ops.packqvit.function.default,
    aten.relu.default,
    aten.silu.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.hardtanh.default,
    aten.relu6.default,
    aten.leaky_relu.default,
    aten.elu.default,
    aten.mish.default,
    aten.softplus.default,
    aten.sigmoid.default,
    aten.tanh.default,
)
"""Functions of one variable: each becomes a 256-entry table."""


def function_of(node: Node) -> Callable[[torch.Tensor], torch.Tensor]:
    """What a node of UNARY_FUNCTIONS computes."""
    assert callable(node.target)
    return functools.partial(_apply, node.target, node.args[1:], dict(node.kwargs))


def _apply(target: Callable, args: tuple, kwargs: dict, x: torch.Tensor) -> torch.Tensor:
    return target(x, *args, **kwargs)


def layer_name(node: Node) -> str:
    """The module that a node came from, e.g. `blocks.0.mlp.fc1`; the node's name where export kept none."""
    return module_path(node) or node.name


def _only_user(node: Node, target: Any) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and is_call(users[0], target) else None


def attentions(graph_module: GraphModule) -> Iterator[Attention]:
    """All canonical attentions of a graph, in order."""
    for node in graph_module.graph.nodes:
        if is_call(node, aten.softmax.int):
            found = match_attention(node)
            if found is not None:
                yield found


def projection_behind(attention: Attention) -> Node | None:
    """The linear behind an attention, when it and the linear that gives v have constant parameters and no other use.

    A linear map of v's channels, head by head, can then be taken back in its weights.
    """
    behind = readers(attention.output)
    if behind is None or len(behind) != 1:
        return None
    ((linear, rows),) = behind
    if not is_call(linear, aten.linear.default) or linear.args[0] is not rows:
        return None
    constants = (linear.args[1], *attention.value.args[1:])
    return linear if len(attention.value.users) == 1 and all(map(is_constant, constants)) else None


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Patches, position embedding and prefix tokens: the first value of the residual stream.

    Attributes:
        convolution: The patch projection; its kernel is its stride.
        position: Constant [1, P, D] added to the patches, or None.
        prefix: Constant [B, T, D] put before the patches, or None.
        output: [B, T + P, D].
    """

    convolution: Node
    position: Node | None
    prefix: Node | None
    output: Node


def match_embedding(convolution: Node) -> Embedding | None:
    """The canonical embedding that begins at a convolution, or None."""
    if not is_call(convolution, aten.conv2d.default) or not is_patch_projection(convolution):
        return None
    reshape = _only_user(convolution, aten.reshape.default)
    if reshape is None or len(shape_of(reshape)) != 3:
        return None
    tokens = _only_user(reshape, aten.transpose.int)
    if tokens is None:
        tokens = _only_user(reshape, aten.permute.default)
        if tokens is None or list(tokens.args[1]) != [0, 2, 1]:  # type: ignore[arg-type]
            return None
    position = prefix = None
    added = _only_user(tokens, aten.add.Tensor)
    if added is not None and is_constant(added.args[1]):
        tokens, position = added, added.args[1]
    joined = _only_user(tokens, aten.cat.default)
    if joined is not None:
        parts = list(joined.args[0])  # type: ignore[arg-type]
        axis = joined.args[1] if len(joined.args) > 1 else 0
        if len(parts) == 2 and is_constant(parts[0]) and parts[1] is tokens and axis in (1, -2):
            tokens, prefix = joined, parts[0]
    return Embedding(convolution, position, prefix, tokens)  # type: ignore[arg-type]


def is_patch_projection(convolution: Node) -> bool:
    """Whether a convolution cuts the image into patches: stride = kernel, no padding, no dilation, no groups.

    Pixels at the right and the bottom that make no whole patch are not read.
    """
    given = arguments(convolution)
    kernel = list(shape_of(skip_codes(given["weight"]))[2:])
    return (
        _pair(given["stride"]) == kernel
        and _pair(given["padding"]) == [0, 0]
        and _pair(given["dilation"]) == [1, 1]
        and bool(given["groups"] == 1)
    )


def _pair(sizes: Any) -> list[int]:
    return [*sizes] * (2 // len(sizes))


def is_residual_add(node: Node) -> bool:
    """Whether a node adds a linear layer's output into the residual stream."""
    if not is_call(node, aten.add.Tensor) or len(node.args) != 2 or not all(isinstance(a, Node) for a in node.args):
        return False
    stream, branch = node.args
    return bool(
        is_call(branch, aten.linear.default)
        and len(branch.users) == 1  # type: ignore[union-attr]
        and not is_constant(stream)
        and shape_of(stream) == shape_of(branch)  # type: ignore[arg-type]
    )


def is_post_norm_add(node: Node) -> bool:
    """Whether a node adds a LayerNorm's output, which nothing else reads, into the residual stream (post-norm)."""
    if not is_call(node, aten.add.Tensor) or len(node.args) != 2 or not all(isinstance(a, Node) for a in node.args):
        return False
    stream, norm = node.args
    return bool(
        is_channel_norm(norm)
        and len(norm.users) == 1  # type: ignore[union-attr]
        and not is_constant(stream)
        and shape_of(stream) == shape_of(norm)  # type: ignore[arg-type]
    )


def adds_to_stream(node: Node) -> bool:
    """Whether a node adds a branch into the residual stream: a linear's output, or that of a LayerNorm behind it."""
    return is_residual_add(node) or is_post_norm_add(node)


def sums_up_linears(node: Node) -> bool:
    """Whether an addition is part of a sum of linears alone, which no LayerNorm reads: the logits of several heads."""
    sums: list[Any] = [node]
    while is_residual_add(sums[0]):
        sums.insert(0, sums[0].args[0])
    while following := [user for user in sums[-1].users if is_residual_add(user) and user.args[0] is sums[-1]]:
        sums.append(following[0])
    reading = (reader for value in sums for reader, _ in _readers_of_rows(value))
    has_norm = any(is_call(reader, aten.layer_norm.default) for reader in reading)
    return len(sums) > 1 and is_call(sums[0], aten.linear.default) and not has_norm


def is_channel_norm(node: Any) -> bool:
    """Whether a node is a LayerNorm of the last axis with constant parameters, or none."""
    if not is_call(node, aten.layer_norm.default):
        return False
    given = arguments(node)
    constants = (given["weight"], given["bias"])
    return len(given["normalized_shape"]) == 1 and all(value is None or is_constant(value) for value in constants)


def normalizes(value: Any) -> bool:
    """Whether a node is the result of a norm of the last axis: a LayerNorm, an RMSNorm or an L2 normalisation."""
    return is_channel_norm(value) or match_row_norm(value) is not None


def stream_of(reader: Node) -> Node:
    """The value in the residual stream that a LayerNorm, a linear or an addition reads, seen through moves of tokens.

    And through the constant factor of a scaled skip.
    """
    stream: Any = reader.args[0]
    if adds_to_stream(reader) and is_call(stream, aten.mul.Tensor):
        factor = stream.args[1]
        if isinstance(factor, float) or is_constant(factor):
            stream = stream.args[0]
    base, chain = trace(stream)
    return next((origin for origin in (base, *chain) if joined_rows(origin, stream) is not None), stream)


def is_input(value: Node) -> bool:
    """Whether a value is an input of the model that is no scalar and holds real numbers."""
    is_real = value.op == "placeholder" and has_tensor(value) and dtype_of(value).is_floating_point
    return is_real and bool(shape_of(value))


def averages_tokens(node: Node) -> bool:
    """Whether a node is the mean of tokens, channel by channel."""
    if not is_call(node, aten.mean.dim):
        return False
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    return all(axis % rank != rank - 1 for axis in arguments(node)["dim"] or [-1])


def readers(value: Node) -> list[tuple[Node, Node]] | None:
    """What reads a value [..., C], or tokens of it that were moved as a whole, and through which node it does.

    None when anything reads parts of its tokens.
    """
    found: list[tuple[Node, Node]] = []
    for user, through, is_whole in _reads(value):
        if not is_whole:
            return None
        found.append((user, through))
    return found


def is_padded(value: Node) -> bool:
    """Whether rows of zeros are put between those of a value [..., C] before anything reads them."""
    found = [joined_rows(value, through) for _, through in readers(value) or () if through is not value]
    return any(rows is not None and bool((rows == NOTHING).any()) for rows in found)


def begins_stream(value: Node) -> bool:
    """Whether a LayerNorm or a residual addition reads a value [..., C], or whole tokens of it."""
    return any(
        reader.args[0] is through and (adds_to_stream(reader) or is_call(reader, aten.layer_norm.default))
        for reader, through in _readers_of_rows(value)
    )


def is_shared(value: Node) -> bool:
    """Whether linears with constant parameters read a value [..., C], or whole tokens of it, and others do, too."""
    return linears_behind(value) is None and any(
        reader.args[0] is through and reads_as_linear(reader) for reader, through in _readers_of_rows(value)
    )


def reads_as_linear(reader: Node) -> bool:
    """Whether a node is a linear with constant parameters."""
    return is_call(reader, aten.linear.default) and all(is_constant(a) for a in reader.args[1:] if a is not None)


def _readers_of_rows(value: Node) -> Iterator[tuple[Node, Node]]:
    """What reads whole tokens of a value [..., C], moved or not, and through which node; whatever else reads it."""
    return ((user, through) for user, through, is_whole in _reads(value) if is_whole)


def _reads(value: Node) -> Iterator[tuple[Node, Node, bool]]:
    """What reads a value [..., C], seen through moves; through which node, and whether its tokens are whole there."""
    waiting = [value]
    while waiting:
        through = waiting.pop()
        for user in through.users:
            if is_layout(user) and user.args[0] is through:
                waiting.append(user)
            else:
                is_whole = through is value or has_tensor(through) and joined_rows(value, through) is not None
                yield user, through, is_whole


def linears_behind(value: Node) -> list[Node] | None:
    """The linears with constant parameters that read a value [..., C], all, some or means of its tokens.

    None when anything else reads it.
    """
    found: list[Node] = []
    behind = readers(value)
    if behind is None:
        return None
    for reader, through in behind:
        if reads_as_linear(reader) and reader.args[0] is through:
            found.append(reader)
        elif averages_tokens(reader) and (linears := linears_behind(reader)) is not None:
            found.extend(linears)
        else:
            return None
    return found
