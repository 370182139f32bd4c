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

POOLINGS: tuple[torch._ops.OpOverload, ...] = (aten.mean.dim, aten.amax.default)
"""What makes one token of many."""


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


def embedding_that_ends_at(node: Node) -> Embedding | None:
    """The embedding whose output a node is, or None."""
    current: Any = node
    for _ in range(5):
        if is_call(current, aten.conv2d.default):
            embedding = match_embedding(current)
            return embedding if embedding is not None and embedding.output is node else None
        if is_call(current, aten.cat.default):
            current = current.args[0][-1]
        elif isinstance(current, Node) and current.op == "call_function" and current.args:
            current = current.args[0]
        else:
            return None
    return None


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
        and _is_added_to(stream, node)
    )


def is_post_norm_add(node: Node) -> bool:
    """Whether a node adds a LayerNorm's output, which nothing else reads, into the residual stream (post-norm)."""
    if not is_call(node, aten.add.Tensor) or len(node.args) != 2 or not all(isinstance(a, Node) for a in node.args):
        return False
    stream, norm = node.args
    return bool(
        is_channel_norm(norm)
        and len(norm.users) == 1  # type: ignore[union-attr]
        and _is_added_to(stream, node)
    )


def _is_added_to(stream: Any, addition: Node) -> bool:
    """Whether the first operand of an addition may be a stream: of its shape, or tokens that are constants."""
    return is_token_constant(stream, addition) or (
        has_tensor(stream) and not is_constant(stream) and shape_of(stream) == shape_of(addition)
    )


def is_token_constant(value: Any, addition: Node) -> bool:
    """Whether an operand of an addition is a constant that differs between tokens, such as positions or latents."""
    if not is_constant(value):
        return False
    shape = (1,) * (len(shape_of(addition)) - len(shape_of(value))) + shape_of(value)
    return len(shape) == len(shape_of(addition)) > 2 and any(size > 1 for size in shape[1:-1])


def adds_to_stream(node: Node) -> bool:
    """Whether a node adds into the residual stream: a linear's output, a LayerNorm behind it, or another stream."""
    return is_residual_add(node) or is_post_norm_add(node) or is_stream_sum(node)


def is_gate(node: Any) -> bool:
    """Whether a node multiplies two linears, or functions of linears, which nothing else reads, as gated MLPs do.

    Linears have to read the product, or norms of its channels.
    """
    if not is_call(node, aten.mul.Tensor) or not all(map(is_gated, node.args)) or len(set(node.args)) < 2:
        return False
    if any(shape_of(operand) != shape_of(node) for operand in node.args):  # one gate for many tokens
        return False
    return bool(linears_behind(node)) or begins_stream(node) or _is_row_normed(node)


def multiplies(node: Node) -> bool:
    """Whether a node multiplies two values that are computed, a gate or not."""
    return is_call(node, aten.mul.Tensor) and all(isinstance(a, Node) and not is_constant(a) for a in node.args)


def is_gated(value: Any) -> bool:
    """Whether a value may be multiplied by a gate, or be one: a linear, or a function of one, with one reader."""
    if not isinstance(value, Node) or len(value.users) != 1:
        return False
    source: Any = value.args[0] if is_call(value, *UNARY_FUNCTIONS) else value
    return isinstance(source, Node) and len(source.users) == 1 and reads_as_linear(source)


def _is_row_normed(value: Node) -> bool:
    return len(value.users) == 1 and is_call(next(iter(value.users)), aten.rms_norm.default)


def is_stream_sum(node: Node) -> bool:
    """Whether a node adds two values that may be residual streams, times constants or not, or one and constant tokens.

    Neither is a branch: what it is read by, or that it moves, wants codes of its own.
    """
    if not is_call(node, aten.add.Tensor) or len(node.args) != 2 or not all(map(has_tensor, node.args)):
        return False
    if is_residual_add(node) or is_post_norm_add(node):
        return False
    streams = [value for value in node.args if not is_token_constant(value, node)]
    return bool(streams) and all(
        not is_constant(value) and shape_of(value) == shape_of(node) and may_be_stream(value)  # type: ignore[arg-type]
        for value in streams
    )


def joins_streams(node: Node) -> bool:
    """Whether a node puts tokens of residual streams, or constant ones, one behind the other."""
    if not is_call(node, aten.cat.default) or len(shape_of(node)) != 3 or embedding_that_ends_at(node) is not None:
        return False
    given = arguments(node)
    streams = [value for value in given["tensors"] if not is_constant(value)]
    return given["dim"] in (1, -2) and bool(streams) and all(map(may_be_stream, streams))


def meets_streams(node: Node) -> bool:
    """Whether streams meet in a node of which none is a branch: a sum of streams, or a concatenation of tokens."""
    return is_stream_sum(node) or joins_streams(node)


def may_be_stream(value: Any) -> bool:
    """Whether a value may have the codes of a residual stream: times a constant, and moved as whole tokens or not."""
    source = _unmoved(unscaled(value))
    return (
        normalizes(source)
        or pools_tokens(source)
        or reads_as_linear(source)
        or adds_to_stream(source)
        or joins_streams(source)
        or embedding_that_ends_at(source) is not None
    )


def unscaled(value: Any) -> Any:
    """What a constant factor stands behind, where there is one."""
    if is_call(value, aten.mul.Tensor) and (isinstance(value.args[1], float) or is_constant(value.args[1])):
        return value.args[0]
    return value


def streams_of(reader: Node) -> list[Node]:
    """The values of residual streams that a LayerNorm, a linear or an addition reads: of several that meet, all."""
    if joins_streams(reader):
        return [_unmoved(value) for value in arguments(reader)["tensors"] if not is_constant(value)]
    if is_stream_sum(reader):
        return [_unmoved(unscaled(value)) for value in reader.args if not is_constant(value)]
    return [stream_of(reader)]


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
    return _unmoved(unscaled(stream) if adds_to_stream(reader) else stream)


def _unmoved(value: Node) -> Node:
    """The value of which another one holds whole tokens, moved.

    What an attention gives is there when its heads are joined: behind a permute and a reshape.
    """
    base, chain = trace(value)
    origins = chain[1:] if is_call(base, aten.matmul.default) else [base, *chain]
    return next((origin for origin in origins if joined_rows(origin, value) is not None), value)


def is_input(value: Node) -> bool:
    """Whether a value is an input of the model that is no scalar and holds real numbers."""
    is_real = value.op == "placeholder" and has_tensor(value) and dtype_of(value).is_floating_point
    return is_real and bool(shape_of(value))


def averages_tokens(node: Node) -> bool:
    """Whether a node is the mean of tokens, channel by channel."""
    return is_call(node, aten.mean.dim) and pools_tokens(node)


def pools_tokens(node: Node) -> bool:
    """Whether a node is the mean or the maximum of tokens, channel by channel."""
    if not is_call(node, *POOLINGS):
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
    return any(_reads_stream(reader, through) for reader, through in _readers_of_rows(value))


def _reads_stream(reader: Node, through: Node) -> bool:
    if meets_streams(reader):
        return True
    if unscaled(reader) is through:
        return any(_reads_stream(user, reader) for user in reader.users)
    return reader.args[0] is through and (adds_to_stream(reader) or is_call(reader, aten.layer_norm.default))


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


def linears_behind(value: Node, pools: Callable[[Node], bool] = pools_tokens) -> list[Node] | None:
    """The linears with constant parameters that read a value [..., C], all or some of its tokens, or what pools them.

    None when anything else reads it.

    Args:
        value: Of tokens.
        pools: Which nodes may stand between: the mean or the maximum of tokens.
    """
    found: list[Node] = []
    behind = readers(value)
    if behind is None:
        return None
    for reader, through in behind:
        if reads_as_linear(reader) and reader.args[0] is through:
            found.append(reader)
        elif pools(reader) and (linears := linears_behind(reader, pools)) is not None:
            found.extend(linears)
        else:
            return None
    return found
