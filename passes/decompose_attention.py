"""Brings every attention to one explicit form."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .attention import match_attention
from .graph import (
    add_constant,
    add_linear,
    arguments,
    aten,
    call,
    clean_up,
    constant,
    find,
    is_call,
    is_constant,
    is_trainable,
    keep_module,
    linear_parameters,
    reshape,
    scaling,
    shape_of,
)
from .layout import RESHAPES, apply, head_features, index_map, is_bijective, is_layout, place_rows, trace

logger = logging.getLogger(__name__)

# Takes the place of -inf: it has the same effect on a row that has anything else, and is a number.
_MASKED = torch.finfo(torch.float32).min


@dataclass
class _Scores:
    """softmax(scale * q k^T + bias): the operands as the model has them.

    Attributes:
        query: [..., Nq, d].
        key: [..., Nk, d], or [..., d, Nk] when `key_transposed`.
        key_transposed: Whether the model transposed k itself.
        shape: Shape of the scores, [..., Nq, Nk].
        scale: Factor on the product.
        bias: What is added to the scaled scores, broadcastable to `shape`.
        trainable: Whether the bias was made of parameters.
    """

    query: Node
    key: Node
    key_transposed: bool
    shape: tuple[int, ...]
    scale: float = 1.0
    bias: Tensor | None = None
    trainable: bool = False


@dataclass
class _Projection:
    """A linear with one output feature for every head and channel.

    Attributes:
        linear: The linear, [..., H * d].
        batch: B, images or windows that attend to themselves.
        tokens: N.
        features: Its output feature by head and channel, [H, d].
        factor: The number that the model multiplies its output with.
    """

    linear: Node
    batch: int
    tokens: int
    features: Tensor
    factor: float


def decompose_attention(graph_module: GraphModule) -> GraphModule:
    """Rewrites scaled_dot_product_attention and explicit attention in any layout to the canonical form.

    before: scaled_dot_product_attention(q, k, v), or q * scale, k^T, baddbmm, softmax, bmm on [B * H, N, d] and so on
    after:  permute(matmul(softmax(matmul(q, transpose(k)) * scale + bias), v)) -> reshape, on [B, H, N, d]
    """
    for node in find(graph_module, aten.scaled_dot_product_attention.default):
        scores = _scores_of_sdpa(graph_module, node)
        if scores is None or not _rewrite(graph_module, scores, node.args[2], node):  # type: ignore[arg-type]
            logger.debug("%s: this form of attention is not supported, it stays", node.name)
    for node in find(graph_module, aten.softmax.int, aten._softmax.default):
        if match_attention(node) is not None:
            continue
        values = _weighted_sum(node)
        scores = _scores_of_softmax(graph_module, node)
        if scores is None or values is None or not _rewrite(graph_module, scores, values.args[1], values):  # type: ignore[arg-type]
            logger.debug("%s: this form of attention is not supported, it stays", node.name)
    return clean_up(graph_module)


def _scores_of_sdpa(graph_module: GraphModule, node: Node) -> _Scores | None:
    named = arguments(node)
    query, key, mask = named["query"], named["key"], named["attn_mask"]
    if named["dropout_p"] != 0.0 or named["is_causal"] or named["enable_gqa"]:
        return None
    if mask is not None and not is_constant(mask):
        return None
    shape = (*shape_of(query)[:-1], shape_of(key)[-2])
    scale = named["scale"] if named["scale"] is not None else 1.0 / math.sqrt(shape_of(query)[-1])
    scores = _Scores(query, key, False, shape, float(scale))
    if mask is not None:
        scores.bias = constant(graph_module, mask)
        scores.trainable = is_trainable(graph_module, mask)
        if scores.bias.dtype == torch.bool:
            scores.bias = torch.zeros(scores.bias.shape).masked_fill(~scores.bias, _MASKED)
    return scores


def _scores_of_softmax(graph_module: GraphModule, softmax: Node) -> _Scores | None:
    """Walks from a softmax over the last dimension back to the product of q and k."""
    node: Any = softmax.args[0]
    if softmax.args[1] not in (-1, len(shape_of(softmax)) - 1):
        return None
    scale, bias, trainable = 1.0, torch.zeros(()), False
    while not is_call(node, aten.matmul.default, aten.bmm.default, aten.baddbmm.default):
        if (scaled := scaling(graph_module, node)) is not None:
            node, scale = scaled[0], scale * scaled[1]
        elif is_call(node, *RESHAPES):
            bias = bias.expand(shape_of(node)).reshape(shape_of(node.args[0])) if bias.dim() else bias
            node = node.args[0]
        elif is_call(node, aten.add.Tensor) and arguments(node)["alpha"] == 1:
            constants = [argument for argument in node.args[:2] if is_constant(argument)]
            others = [argument for argument in node.args[:2] if not is_constant(argument)]
            if len(constants) != 1 or not isinstance(others[0], Node) or shape_of(others[0]) != shape_of(node):
                return None
            bias = bias + scale * constant(graph_module, constants[0])
            trainable |= is_trainable(graph_module, *constants)
            node = others[0]
        else:
            return None
    query, key = node.args[-2:]
    if is_call(node, aten.baddbmm.default):
        named = arguments(node)
        if named["beta"] != 0:
            if not is_constant(named["self"]):
                return None
            bias = bias + scale * named["beta"] * constant(graph_module, named["self"])
            trainable |= is_trainable(graph_module, named["self"])
        query, key, scale = named["batch1"], named["batch2"], scale * named["alpha"]
    return _Scores(query, key, True, shape_of(node), scale, bias, trainable)


def _weighted_sum(softmax: Node) -> Node | None:
    """The product of the probabilities, which nothing else reads, and v."""
    node = softmax
    while len(node.users) == 1:
        user = next(iter(node.users))
        if is_call(user, aten.matmul.default, aten.bmm.default):
            return user if user.args[0] is node else None
        if not is_call(user, *RESHAPES):
            return None
        node = user
    return None


def _rewrite(graph_module: GraphModule, scores: _Scores, value: Node, result: Node) -> bool:
    """Replaces the attention that ends in `result`; False when an operand or the output is not understood."""
    query = _projection(graph_module, scores.query, transposed=False)
    key = _projection(graph_module, scores.key, transposed=scores.key_transposed)
    values = _projection(graph_module, value, transposed=False)
    if query is None or key is None or values is None or values.factor != 1.0:
        return False
    heads = len(query.features)
    batch, tokens, key_tokens = query.batch, query.tokens, key.tokens
    if len(key.features) != heads or len(values.features) != heads or key.batch != batch:
        return False
    if (values.batch, values.tokens) != (batch, key_tokens):
        return False
    bias = None if scores.bias is None else _bias(scores, (batch, heads, tokens, key_tokens))
    if bias is not None and bool((bias.amax(-1) <= _MASKED / 2).any()):
        return False
    output = _output(result, batch, heads, tokens)
    if output is None:
        return False
    scale = scores.scale * query.factor * key.factor
    with graph_module.graph.inserting_before(output.node):
        q, k, v = (_heads(graph_module, projection) for projection in (query, key, values))
        node = call(graph_module, aten.matmul.default, q, call(graph_module, aten.transpose.int, k, -2, -1))
        node = call(graph_module, aten.mul.Tensor, node, scale)
        if bias is not None and bool(bias.any()):
            name = f"{result.name}_bias"
            node = call(graph_module, aten.add.Tensor, node, add_constant(graph_module, bias, name, scores.trainable))
        node = keep_module(call(graph_module, aten.softmax.int, node, -1), result)
        node = call(graph_module, aten.matmul.default, node, v)
        node = call(graph_module, aten.permute.default, node, [0, 2, 1, 3])
        node = reshape(graph_module, node, [batch, tokens, shape_of(node)[2] * shape_of(node)[3]])
        keep_module(node, result)
        placed = place_rows(graph_module, node, output.positions)
    if not torch.equal(output.columns, torch.arange(len(output.columns))):
        _reorder_columns(graph_module, output)
    output.node.replace_all_uses_with(placed)  # type: ignore[arg-type]
    return True


def _projection(graph_module: GraphModule, node: Node, transposed: bool) -> _Projection | None:
    """Walks from an operand of attention back over moves and scalings to the linear it comes from."""
    factors = []

    def accept(passed: Node) -> bool:
        scaled = scaling(graph_module, passed)
        if scaled is None or passed.args[0] is not scaled[0]:
            return is_layout(passed)
        factors.append(scaled[1])
        return True

    linear, chain = trace(node, accept)
    if linear_parameters(graph_module, linear) is None or len(shape_of(linear)) < 3:
        return None
    index = index_map(linear, chain)
    index = index.transpose(-1, -2) if transposed else index
    *leading, width = shape_of(linear)
    rows, tokens = math.prod(leading), index.shape[-2]
    if rows % tokens:
        return None
    features = head_features(index, rows // tokens, tokens, width)
    if features is None or not torch.equal(features.flatten().sort().values, torch.arange(width)):
        return None
    return _Projection(linear, rows // tokens, tokens, features, math.prod(factors))


def _heads(graph_module: GraphModule, projection: _Projection) -> Node:
    """Inserts linear -> reshape [B, N, H, d] -> permute [0, 2, 1, 3].

    The linear is new if its features move, or if its rows are to be grouped as attention takes them.
    """
    linear, features = projection.linear, projection.features.flatten()
    leading = [projection.batch, projection.tokens]
    x: Any = linear.args[0]
    if list(shape_of(linear)[:-1]) != leading:
        x = reshape(graph_module, x, [*leading, shape_of(x)[-1]])
        linear = keep_module(call(graph_module, aten.linear.default, x, *linear.args[1:]), linear)
    if not torch.equal(features, torch.arange(len(features))):
        weight, bias = linear_parameters(graph_module, linear)  # type: ignore[misc]
        bias = None if bias is None else bias[features]
        linear = add_linear(graph_module, linear, weight[features], bias, "by_head", x)
    split = call(graph_module, aten.reshape.default, linear, [*leading, *projection.features.shape])
    return call(graph_module, aten.permute.default, split, [0, 2, 1, 3])


def _bias(scores: _Scores, shape: tuple[int, int, int, int]) -> Tensor:
    """The bias as [B or 1, H or 1, Nq, Nk], without infinities."""
    bias = scores.bias.float().clamp(min=_MASKED).expand(scores.shape).reshape(shape)  # type: ignore[union-attr]
    for dim in (0, 1):
        first = bias.narrow(dim, 0, 1)
        if torch.equal(first.expand_as(bias), bias):
            bias = first
    return bias


@dataclass
class _Output:
    """Where the heads are back in one row for every token.

    Attributes:
        node: The node that holds the rows [..., H * d].
        positions: Which row of [B, N, H * d] each of its rows is.
        columns: Which channel of the canonical output each of its channels is.
    """

    node: Node
    positions: Tensor
    columns: Tensor


def _output(result: Node, batch: int, heads: int, tokens: int) -> _Output | None:
    """Follows the product of probabilities and v to where its heads are merged, and as far as whole rows move on."""
    shape = shape_of(result)
    width = heads * shape[-1]
    rows = torch.arange(batch * tokens)
    merged = torch.arange(batch * tokens * width).reshape(batch, tokens, heads, shape[-1])
    index = merged.permute(0, 2, 1, 3).reshape(shape)
    node, found = result, None
    while True:
        if index.dim() > 1 and index.shape[-1] == width:
            positions, columns = index[..., 0] // width, index.reshape(-1, width)[0] % width
            same_columns = torch.equal(index % width, columns.expand_as(index))
            same_rows = torch.equal(index // width, positions[..., None].expand_as(index))
            order = positions.flatten()
            placeable = torch.equal(order, rows) or torch.equal(order, rows.reshape(batch, tokens).T.flatten())
            if same_columns and same_rows and placeable:
                found = _Output(node, positions, columns)
        if len(node.users) != 1 or not is_bijective(user := next(iter(node.users))):
            break
        node, index = user, apply(user, index)
    if found is None or torch.equal(found.columns, torch.arange(width)):
        return found
    return found if _output_linear(found.node) is not None else None


def _output_linear(node: Node) -> Node | None:
    """The one linear that reads `node`."""
    users = list(node.users)
    linear = len(users) == 1 and is_call(users[0], aten.linear.default) and is_constant(users[0].args[1])
    return users[0] if linear else None


def _reorder_columns(graph_module: GraphModule, output: _Output) -> None:
    """Gives the linear behind an output with interleaved heads the columns of the canonical order."""
    linear = _output_linear(output.node)
    weight, bias = linear_parameters(graph_module, linear)  # type: ignore[arg-type, misc]
    reordered = torch.empty_like(weight)
    reordered[:, output.columns] = weight
    with graph_module.graph.inserting_before(linear):
        replacement = add_linear(graph_module, linear, reordered, bias, "by_head")  # type: ignore[arg-type]
    linear.replace_all_uses_with(replacement)  # type: ignore[union-attr]
