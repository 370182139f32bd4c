"""Brings every attention to one explicit form."""

import math
from dataclasses import dataclass, field
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
    dtype_of,
    find,
    is_call,
    is_constant,
    is_trainable,
    keep_module,
    linear_parameters,
    replacing,
    reshape,
    scaling,
    shape_of,
)
from .integer.masks import MASKED
from .layout import (
    RESHAPES,
    apply,
    head_features,
    index_map,
    is_bijective,
    is_layout,
    moves_or_repeats,
    place_rows,
    trace,
)
from .reasons import NotLowered, describe, listed, read_by, set_reason
from .relative import Addend, Queries, Relative, find_relative

_ROTARY = torch.ops.packqvit.rotary.default
_RELATIVE = torch.ops.packqvit.relative_bias.default

# Takes the place of -inf: it has the same effect on a row that has anything else, and is a number.
_MASKED = torch.finfo(torch.float32).min


@dataclass
class _Scores:
    """softmax(scale * q k^T + bias + what the queries add): the operands as the model has them.

    Attributes:
        query: [..., Nq, d].
        key: [..., Nk, d], or [..., d, Nk] when `key_transposed`.
        key_transposed: Whether the model transposed k itself.
        shape: Shape of the scores, [..., Nq, Nk].
        scale: Factor on the product, float64 [], or broadcastable to `shape` where heads have factors of their own.
        bias: What is added to the scaled scores, broadcastable to `shape`.
        trainable: Whether the bias was made of parameters.
        added: What is computed and added as well.
    """

    query: Node
    key: Node
    key_transposed: bool
    shape: tuple[int, ...]
    scale: Tensor
    bias: Tensor | None = None
    trainable: bool = False
    added: list[Addend] = field(default_factory=list)


@dataclass
class _Projection:
    """A linear with one output feature for every head and channel.

    Attributes:
        linear: The linear, [..., H * d].
        batch: B, images or windows that attend to themselves.
        tokens: N.
        features: Its output feature by head and channel, [H, d]; heads that are shared have the same ones.
        factor: What the model multiplies its output with, float64 [H, d].
        norm: The norm of each head's channels that `factor` is behind, or None.
        rotary: The rotation of each head's channels that comes last, or None.
    """

    linear: Node
    batch: int
    tokens: int
    features: Tensor
    factor: Tensor
    norm: Node | None = None
    rotary: Node | None = None

    @property
    def heads(self) -> int:
        """H."""
        return len(self.features)


@dataclass
class _Queries:
    """Queries that are a constant, the same for all images.

    Attributes:
        value: float64 [1, H, Nq, d].
        batch: B.
        factor: What they are to be multiplied with, float64 [H, 1].
        trainable: Whether they were made of parameters.
    """

    value: Tensor
    batch: int
    factor: Tensor
    trainable: bool

    @property
    def heads(self) -> int:
        """H."""
        return self.value.shape[1]

    @property
    def tokens(self) -> int:
        """Nq."""
        return self.value.shape[2]


def decompose_attention(graph_module: GraphModule) -> GraphModule:
    """Rewrites scaled_dot_product_attention and explicit attention in any layout to the canonical form.

    before: scaled_dot_product_attention(q, k, v), or q * scale, k^T, baddbmm, softmax, bmm on [B * H, N, d] and so on
    after:  permute(matmul(softmax(matmul(q, transpose(k)) * scale + bias + relative_bias(q)), v)) -> reshape, on
            [B, H, N, d]
    """
    for node in find(graph_module, aten.scaled_dot_product_attention.default):
        try:
            _rewrite(graph_module, _scores_of_sdpa(graph_module, node), node.args[2], node)  # type: ignore[arg-type]
        except NotLowered as reason:
            set_reason(node, str(reason))
    for node in find(graph_module, aten.softmax.int, aten._softmax.default):
        if match_attention(node) is not None:
            continue
        try:
            scores, values = _scores_of_softmax(graph_module, node), _weighted_sum(node)
            _rewrite(graph_module, scores, values.args[1], values)  # type: ignore[arg-type]
        except NotLowered as reason:
            set_reason(node, str(reason))
    return clean_up(graph_module)


def _scores_of_sdpa(graph_module: GraphModule, node: Node) -> _Scores:
    """The operands of scaled_dot_product_attention.

    Raises:
        NotLowered: It is more than softmax(scale * q k^T + mask) v.
    """
    named = arguments(node)
    query, key, mask = named["query"], named["key"], named["attn_mask"]
    if named["dropout_p"] != 0.0:
        raise NotLowered(
            f"the attention drops probabilities (dropout_p={named['dropout_p']}): the model would have to be in "
            "evaluation mode"
        )
    shape = _scores_shape(query, key, transposed=False)
    scale = named["scale"] if named["scale"] is not None else 1.0 / math.sqrt(shape_of(query)[-1])
    scores = _Scores(query, key, False, shape, torch.tensor(float(scale), dtype=torch.float64))
    if mask is not None and not is_constant(mask):
        mask = _computed_mask(graph_module, mask, scores)
    if named["is_causal"]:
        scores.bias = torch.zeros(shape[-2:]).masked_fill(torch.ones(shape[-2:], dtype=torch.bool).triu(1), _MASKED)
    elif mask is not None:
        scores.bias = constant(graph_module, mask)
        scores.trainable = is_trainable(graph_module, mask)
        if scores.bias.dtype == torch.bool:
            scores.bias = torch.zeros(scores.bias.shape).masked_fill(~scores.bias, _MASKED)
    return scores


def _computed_mask(graph_module: GraphModule, mask: Node, scores: _Scores) -> Node | None:
    """Takes a mask that is computed for what is added to the scores; returns the constant that is a part of it.

    Raises:
        NotLowered: It says which keys are seen.
    """
    if not dtype_of(mask).is_floating_point:
        raise NotLowered(f"the attention's mask comes from {describe(mask)} at run time: it would have to be constant")
    fixed: Node | None = None
    if is_call(mask, aten.add.Tensor) and arguments(mask)["alpha"] == 1:
        constants = [argument for argument in mask.args[:2] if is_constant(argument)]
        others = [argument for argument in mask.args[:2] if not is_constant(argument)]
        if len(constants) == len(others) == 1 and isinstance(others[0], Node):
            mask, fixed = others[0], constants[0]  # type: ignore[assignment]
    scores.added.append(Addend(mask, torch.ones((), dtype=torch.float64), scores.shape))
    return fixed


def _scores_shape(query: Node, key: Node, transposed: bool) -> tuple[int, ...]:
    leading = torch.broadcast_shapes(shape_of(query)[:-2], shape_of(key)[:-2])
    return (*leading, shape_of(query)[-2], shape_of(key)[-1 if transposed else -2])


def _scores_of_softmax(graph_module: GraphModule, softmax: Node) -> _Scores:
    """Walks from a softmax over the last dimension back to the product of q and k.

    Raises:
        NotLowered: Something else than scaling by a number and adding a constant stands between.
    """
    node: Any = softmax.args[0]
    if softmax.args[1] not in (-1, len(shape_of(softmax)) - 1):
        raise NotLowered(
            f"the softmax is over dim {softmax.args[1]} of {len(shape_of(softmax))}: it would have to be over the last "
            "dimension, the keys of an attention"
        )
    scale, bias, trainable = torch.ones((), dtype=torch.float64), torch.zeros(()), False
    added: list[Addend] = []
    while not is_call(node, aten.matmul.default, aten.bmm.default, aten.baddbmm.default):
        if (scaled := _scaled(graph_module, node)) is not None:
            node, scale = scaled[0], scale * scaled[1]
        elif is_call(node, *RESHAPES):
            bias, scale = (
                value.expand(shape_of(node)).reshape(shape_of(node.args[0])) if value.dim() else value
                for value in (bias, scale)
            )
            node = node.args[0]
        elif is_call(node, aten.add.Tensor) and arguments(node)["alpha"] == 1:
            constants = [argument for argument in node.args[:2] if is_constant(argument)]
            others = [argument for argument in node.args[:2] if not is_constant(argument)]
            products = others if constants else [other for other in others if _is_of_products(graph_module, other)]
            if len(products) != 1 or not isinstance(products[0], Node) or shape_of(products[0]) != shape_of(node):
                raise NotLowered(
                    f"{' and '.join(map(describe, node.args[:2]))} are added before the softmax: one of them would "
                    "have to be a constant (a mask, relative positions), or computed from the queries (relative "
                    "positions), the other the scores q k^T of an attention"
                )
            if constants:
                bias = bias + (scale * constant(graph_module, constants[0])).float()
                trainable |= is_trainable(graph_module, *constants)
            else:
                other = node.args[1] if node.args[0] is products[0] else node.args[0]
                added.append(Addend(other, scale, shape_of(node)))
            node = products[0]
        elif (filled := _filled(graph_module, node)) is not None:
            node, hidden, value = filled
            if bool((scale * value > -MASKED)[hidden.expand(shape_of(node))].any()):
                raise NotLowered(
                    f"{describe(softmax)} reads scores that are set to {float(value.max()):.4g} in some places: a mask "
                    f"would have to set them below {-MASKED:.0f}"
                )
            bias = bias.expand(shape_of(node)).masked_fill(hidden, _MASKED)
        else:
            raise NotLowered(
                f"the softmax reads {describe(node)}: nothing but a factor (a number, or one for each head), the "
                "addition of a constant and a constant mask would have to be between the product q k^T of an attention "
                "and its softmax"
            )
    query, key = node.args[-2:]
    if is_call(node, aten.baddbmm.default):
        named = arguments(node)
        if named["beta"] != 0:
            if is_constant(named["self"]):
                bias = bias + (scale * named["beta"] * constant(graph_module, named["self"])).float()
                trainable |= is_trainable(graph_module, named["self"])
            else:
                added.append(Addend(named["self"], scale * named["beta"], shape_of(node)))
        query, key, scale = named["batch1"], named["batch2"], scale * named["alpha"]
    return _Scores(query, key, True, shape_of(node), scale, bias, trainable, added)


def _is_of_products(graph_module: GraphModule, value: Any) -> bool:
    """Whether a value is made of the products of two computed matrices, as scores are, by what may follow these."""
    while not is_call(value, aten.matmul.default, aten.bmm.default, aten.baddbmm.default):
        if not isinstance(value, Node):
            return False
        if is_call(value, aten.add.Tensor):
            return any(_is_of_products(graph_module, argument) for argument in value.args[:2])
        filled = _filled(graph_module, value)
        if (scaled := _scaled(graph_module, value)) is not None:
            value = scaled[0]
        elif filled is not None or is_call(value, *RESHAPES):
            value = value.args[0] if filled is None else filled[0]
        else:
            return False
    return not any(map(is_constant, value.args[-2:]))


def _filled(graph_module: GraphModule, node: Node) -> tuple[Node, Tensor, Tensor] | None:
    """`(x, hidden, value)` when `node` is x of its own shape, but `value` where the constant `hidden` is, else None."""
    if is_call(node, aten.masked_fill.Scalar, aten.masked_fill.Tensor):
        x, mask, value = node.args[:3]
    elif is_call(node, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf):
        mask, value, x = node.args[:3]
    else:
        return None
    if not is_constant(mask):
        return None
    hidden = constant(graph_module, mask).bool()  # type: ignore[arg-type]
    if _is_number(x):  # where(seen, x, value)
        x, value, hidden = value, x, ~hidden
    if not isinstance(x, Node) or is_constant(x) or shape_of(x) != shape_of(node) or not _is_number(value):
        return None
    number = constant(graph_module, value) if isinstance(value, Node) else torch.tensor(value)
    return x, hidden, number.double().expand(shape_of(node))


def _is_number(value: Any) -> bool:
    return is_constant(value) or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _scaled(graph_module: GraphModule, node: Node) -> tuple[Node, Tensor] | None:
    """`(x, factor)` when `node` multiplies or divides x by a number or a constant tensor, else None."""
    if (scaled := scaling(graph_module, node)) is not None:
        return scaled[0], torch.tensor(scaled[1], dtype=torch.float64)
    if not is_call(node, aten.mul.Tensor, aten.div.Tensor):
        return None
    x, factor = node.args[:2]
    if is_call(node, aten.mul.Tensor) and is_constant(x):
        x, factor = factor, x
    if not is_constant(factor) or not isinstance(x, Node) or is_constant(x) or shape_of(x) != shape_of(node):
        return None
    value = constant(graph_module, factor).double()  # type: ignore[arg-type]
    return x, value if is_call(node, aten.mul.Tensor) else 1 / value


def _weighted_sum(softmax: Node) -> Node:
    """The product of the probabilities, which nothing else reads, and v.

    Raises:
        NotLowered: Something else reads the probabilities.
    """
    node = softmax
    while len(node.users) == 1:
        user = next(iter(node.users))
        if is_call(user, aten.matmul.default, aten.bmm.default) and user.args[0] is node:
            return user
        if not is_call(user, *RESHAPES):
            break
        node = user
    raise NotLowered(
        f"the probabilities of the softmax are read by {listed(read_by(softmax)) or 'nothing'}: one product "
        "probabilities @ v would have to read them, and nothing else"
    )


def _rewrite(graph_module: GraphModule, scores: _Scores, value: Node, result: Node) -> None:
    """Replaces the attention that ends in `result`.

    Raises:
        NotLowered: An operand or the output is not understood.
    """
    key = _projection(graph_module, scores.key, "k", transposed=scores.key_transposed)
    query: _Projection | _Queries
    if is_constant(scores.query):
        query = _constant_queries(graph_module, scores, key)
    else:
        query = _projection(graph_module, scores.query, "q", transposed=False, is_shared=bool(scores.added))
    values = _projection(graph_module, value, "v", transposed=False)
    for change in (values.norm, values.rotary):
        if change is not None:
            raise NotLowered(
                f"v goes through {describe(change)} ahead of the attention: it would have to come from its linear "
                "layer as it is"
            )
    if not bool((values.factor == 1).all()):
        raise NotLowered(
            f"v is scaled by {values.factor.abs().max():.4g} ahead of the attention: its linear layer would have to "
            "have the factor"
        )
    heads = query.heads
    batch, tokens, key_tokens = query.batch, query.tokens, key.tokens
    if key.heads != heads or values.heads != heads:
        raise NotLowered(
            f"q has {heads} heads, k {key.heads} and v {values.heads}: all three would have to have as many"
        )
    if key.batch != batch or (values.batch, values.tokens) != (batch, key_tokens):
        shapes = ", ".join(str([p.batch, p.tokens, p.factor.numel()]) for p in (query, key, values))
        raise NotLowered(
            f"q, k and v are {shapes}: they would have to have the same batch, and k and v the same tokens"
        )
    bias = None if scores.bias is None else _bias(scores, (batch, heads, tokens, key_tokens))
    if bias is not None and bool((bias.amax(-1) <= _MASKED / 2).any()):
        raise NotLowered(
            "the attention's mask leaves a query no key at all: every query would have to see at least one"
        )
    relative = None
    if scores.added:
        relative = _relative(graph_module, scores, query, (batch, heads, tokens, key_tokens))
    output = _output(result, batch, heads, tokens)
    factor = query.factor
    query.factor = query.factor * _factor_of_heads(scores, (batch, heads, tokens, key_tokens))
    scale = _common_factor(query) * _common_factor(key)
    with replacing(graph_module, output.node, like=result):
        if isinstance(query, _Queries):
            by_head = query.value * query.factor.unsqueeze(1)
            q = add_constant(graph_module, by_head.float(), f"{result.name}_query", query.trainable)
        else:
            q = _heads(graph_module, query)
        k, v = _heads(graph_module, key), _heads(graph_module, values)
        node = call(graph_module, aten.matmul.default, q, call(graph_module, aten.transpose.int, k, -2, -1))
        node = call(graph_module, aten.mul.Tensor, node, scale)
        if bias is not None and bool(bias.any()):
            name = f"{result.name}_bias"
            node = call(graph_module, aten.add.Tensor, node, add_constant(graph_module, bias, name, scores.trainable))
        if relative is not None:
            name, ratio = f"{result.name}_relative", _ratio(factor, query.factor)
            numbers = add_constant(graph_module, (relative.numbers * ratio).float(), name, relative.trainable)
            added = call(graph_module, _RELATIVE, q, numbers, relative.rows, relative.columns)
            node = call(graph_module, aten.add.Tensor, node, added)
        node = call(graph_module, aten.softmax.int, node, -1)
        node = call(graph_module, aten.matmul.default, node, v)
        node = call(graph_module, aten.permute.default, node, [0, 2, 1, 3])
        node = reshape(graph_module, node, [batch, tokens, shape_of(node)[2] * shape_of(node)[3]])
        placed = place_rows(graph_module, node, output.positions)
    if not torch.equal(output.columns, torch.arange(len(output.columns))):
        _reorder_columns(graph_module, output)
    output.node.replace_all_uses_with(placed)  # type: ignore[arg-type]


def _relative(
    graph_module: GraphModule, scores: _Scores, query: _Projection | _Queries, shape: tuple[int, int, int, int]
) -> Relative:
    """What the queries add to the scores [B, H, Nq, Nk], in terms of the queries as the model has them.

    Raises:
        NotLowered: It is no relative position.
    """
    batch, heads, tokens, keys = shape
    name = describe(scores.added[0].node)
    if isinstance(query, _Queries):
        raise NotLowered(f"{name} is added to the scores of constant queries: it would have to be constant, too")
    if tokens != keys:
        raise NotLowered(
            f"{name} is added to the scores of {tokens} queries for {keys} keys: there would have to be as many of "
            "both, or it would have to be constant"
        )
    source, chain = trace(
        scores.query, lambda passed: is_layout(passed) or _scaled_first(graph_module, passed) is not None
    )
    by_head = (batch, heads, tokens, -1)
    index, factor = index_map(source, chain).reshape(by_head), _factors(graph_module, source, chain).reshape(by_head)
    return find_relative(graph_module, Queries(source, index, factor), scores.added)


def _ratio(before: Tensor, after: Tensor) -> Tensor:
    """What a product with queries is to be multiplied with where their factors change: [H or 1, 1, d]."""
    ratio = torch.where(after == 0, 1.0, before / after).unsqueeze(1)
    return ratio[:1] if torch.equal(ratio[:1].expand_as(ratio), ratio) else ratio


def _factor_of_heads(scores: _Scores, shape: tuple[int, int, int, int]) -> Tensor:
    """The factors on the scores: float64 [] or [H, 1].

    Raises:
        NotLowered: They differ within a head.
    """
    if not scores.scale.dim():
        return scores.scale
    factors = scores.scale.expand(scores.shape).reshape(shape)
    by_head = factors[:1, :, :1, :1]
    if not torch.equal(by_head.expand_as(factors), factors):
        raise NotLowered("the scores of the attention have different factors: there would have to be one for each head")
    return by_head.reshape(-1, 1)


def _common_factor(projection: _Projection | _Queries) -> float:
    """Takes the largest factor out of a projection's; what is left is 1, or concerns single heads or channels."""
    largest = projection.factor.abs().max()
    if bool((projection.factor == projection.factor[0, 0]).all()):
        largest = projection.factor[0, 0]
    projection.factor = projection.factor / largest if largest else torch.ones_like(projection.factor)
    return float(largest)


def _constant_queries(graph_module: GraphModule, scores: _Scores, key: _Projection) -> _Queries:
    """Queries that do not come from tokens, as those of a pooling by attention.

    Raises:
        NotLowered: They differ between images.
    """
    value = constant(graph_module, scores.query).double()
    tokens, channels = value.shape[-2:]
    value = value.expand(*scores.shape[:-2], tokens, channels).reshape(key.batch, key.heads, tokens, channels)
    if not torch.equal(value[:1].expand_as(value), value):
        raise NotLowered(
            "q of the attention is a constant of the model that differs between the images of a batch: they would have "
            "to share it"
        )
    factor = torch.ones(key.heads, 1, dtype=torch.float64)
    return _Queries(value[:1], key.batch, factor, is_trainable(graph_module, scores.query))


def _projection(
    graph_module: GraphModule, node: Node, name: str, transposed: bool, is_shared: bool = False
) -> _Projection:
    """Walks from an operand of attention back over moves, scalings, a rotation and a norm to the linear it comes from.

    Args:
        graph_module: Holds the constants.
        node: The operand.
        name: In messages.
        transposed: Whether tokens are its last axis.
        is_shared: Whether what is added to the scores reads its norm, too.

    Raises:
        NotLowered: It comes from something else, or not all channels of each token are in it once.
    """

    def accept(passed: Node) -> bool:
        moves = moves_or_repeats(passed) or is_call(passed, _ROTARY)
        return moves or _scaled_first(graph_module, passed) is not None

    norm, chain = trace(node, accept)
    if is_call(norm, aten.rms_norm.default, aten.layer_norm.default) and (is_shared or len(norm.users) == 1):
        linear, before = trace(norm.args[0])  # type: ignore[arg-type]
        chain = [*before, norm, *chain]
    else:
        linear = norm
    if is_constant(linear):
        raise NotLowered(
            f"{name} of the attention is a constant of the model: a linear layer would have to compute it from tokens"
        )
    if linear_parameters(graph_module, linear) is None:
        raise NotLowered(
            f"{name} of the attention comes from {describe(linear)}: it would have to come from a linear layer with "
            "constant weights, with nothing but the split into heads, a norm and rotary positions of each head and "
            "constant factors in between"
        )
    *leading, width = shape_of(linear)
    if len(leading) < 2:
        raise NotLowered(
            f"{name} of the attention comes from {describe(linear)}, which gives {list(shape_of(linear))}: it would "
            "have to be [batch, tokens, channels]"
        )
    index = index_map(linear, chain)
    index = index.transpose(-1, -2) if transposed else index
    rows, tokens = math.prod(leading), index.shape[-2]
    features = None if rows % tokens else head_features(index, rows // tokens, tokens, width)
    if features is None or not torch.equal(features.unique(dim=0).flatten().sort().values, torch.arange(width)):
        raise NotLowered(
            f"{name} of the attention is not {describe(linear)} with its channels split into heads: every head would "
            "have to take its own channels of every token, or share all of them, and all would have to be used"
        )
    if linear is norm:
        norm = None  # type: ignore[assignment]
    elif not _keeps_heads(norm, index_map(linear, before), index):
        raise NotLowered(
            f"{name} of the attention is normalised by {describe(norm)} over other channels than those of a head"
        )
    factor = _factors(graph_module, linear, chain)
    factor = (factor.transpose(-1, -2) if transposed else factor).reshape(rows // tokens, -1, tokens, index.shape[-1])
    if not torch.equal(factor[:1, :, :1].expand_as(factor), factor):
        raise NotLowered(f"{name} of the attention is multiplied by constants that differ between tokens")
    by_channel = factor[0, :, 0]
    rotary = next((passed for passed in chain if is_call(passed, _ROTARY)), None)
    if rotary is not None:
        _check_rotary(rotary, chain, index_map(linear, chain[: chain.index(rotary)]), index, by_channel, name)
    return _Projection(linear, rows // tokens, tokens, features, by_channel, norm, rotary)


def _check_rotary(rotary: Node, chain: list[Node], before: Tensor, behind: Tensor, factor: Tensor, name: str) -> None:
    """Raises NotLowered where a rotation is not of the heads as attention takes them, with one factor for each."""
    alone = sum(is_call(passed, _ROTARY) for passed in chain) == 1
    alike = torch.equal(factor[:, :1].expand_as(factor), factor)
    if not alone or not alike or before.dim() != 4 or not _takes_heads(before.transpose(1, 2), behind, rotary):
        raise NotLowered(
            f"{name} of the attention goes through {describe(rotary)}: nothing but one factor for each head would have "
            "to be between that and the scores"
        )


def _takes_heads(before: Tensor, behind: Tensor, rotary: Node) -> bool:
    """Whether the heads [B, H, N, d] behind a rotation are those before it; if all rotate alike, some may share one."""
    behind = behind.reshape(len(before), -1, *before.shape[2:])
    first = before[0, :, 0, 0]
    head = (behind[0, :, 0, :1] == first).long().argmax(-1)
    kept = torch.equal(head, torch.arange(len(first))) or shape_of(rotary.args[1])[1] == 1  # type: ignore[arg-type]
    return kept and torch.equal(before[:, head], behind)


def _keeps_heads(norm: Node, normalised: Tensor, index: Tensor) -> bool:
    """Whether a norm is over the channels of one head of one token, which stay in their order behind it."""
    channels = index.shape[-1]
    if list(norm.args[1]) != [channels] or normalised.shape[-1] != channels:  # type: ignore[arg-type]
        return False
    before, after = (rows.reshape(-1, channels) for rows in (normalised, index))
    before = before[before[:, 0].argsort()]
    return torch.equal(before[torch.searchsorted(before[:, 0].contiguous(), after[:, 0].contiguous())], after)


def _factors(graph_module: GraphModule, linear: Node, chain: list[Node]) -> Tensor:
    """What each element behind a chain of moves, scalings and a norm was multiplied with behind the norm: float64."""
    value = torch.ones(shape_of(linear), dtype=torch.float64)
    for node in chain:
        if moves_or_repeats(node):
            value = apply(node, value)
        elif (scaled := _scaled_first(graph_module, node)) is not None:
            value = value * scaled
    return value


def _scaled_first(graph_module: GraphModule, node: Node) -> Tensor | None:
    """What a node multiplies its first operand with, where that is constant."""
    scaled = _scaled(graph_module, node)
    return scaled[1] if scaled is not None and node.args[0] is scaled[0] else None


def _heads(graph_module: GraphModule, projection: _Projection) -> Node:
    """Inserts linear -> reshape [B, N, H, d] [-> norm [-> mul]] [-> rotary] -> permute [0, 2, 1, 3].

    The linear is new if its features move or are scaled, or if its rows are to be grouped as attention takes them.
    """
    linear, features, factor = projection.linear, projection.features.flatten(), projection.factor
    leading = [projection.batch, projection.tokens]
    x: Any = linear.args[0]
    if list(shape_of(linear)[:-1]) != leading:
        x = reshape(graph_module, x, [*leading, shape_of(x)[-1]])
        linear = keep_module(call(graph_module, aten.linear.default, x, *linear.args[1:]), linear)
    is_scaled = not bool((factor == 1).all())
    folds = is_scaled and projection.norm is None
    if folds or not torch.equal(features, torch.arange(len(features))):
        weight, bias = linear_parameters(graph_module, linear)  # type: ignore[misc]
        by_row = factor.flatten().to(weight.dtype) if folds else torch.ones(len(features), dtype=weight.dtype)
        bias = None if bias is None else bias[features] * by_row
        linear = add_linear(graph_module, linear, weight[features] * by_row.unsqueeze(1), bias, "by_head", x)
    heads = call(graph_module, aten.reshape.default, linear, [*leading, *projection.features.shape])
    if projection.norm is not None:
        norm = projection.norm
        heads = call(graph_module, norm.target, heads, *norm.args[1:], **norm.kwargs)  # type: ignore[arg-type]
        if is_scaled:
            alike = torch.equal(factor[:, :1].expand_as(factor), factor)
            number = (factor[:, :1] if alike else factor).to(heads.meta["val"].dtype)
            heads = call(graph_module, aten.mul.Tensor, heads, add_constant(graph_module, number, "head_factor"))
    if projection.rotary is not None:
        heads = call(graph_module, _ROTARY, heads, *projection.rotary.args[1:])
    return call(graph_module, aten.permute.default, heads, [0, 2, 1, 3])


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


def _output(result: Node, batch: int, heads: int, tokens: int) -> _Output:
    """Follows the product of probabilities and v to where its heads are merged, and as far as whole rows move on.

    Raises:
        NotLowered: They are never merged, or in an order that no linear can take back.
    """
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
    if found is None:
        raise NotLowered(
            f"the heads of the attention's result would have to be merged into one row of {width} channels for each "
            f"token before {listed(read_by(result)) or 'nothing'} reads them"
        )
    if not torch.equal(found.columns, torch.arange(width)) and _output_linear(found.node) is None:
        raise NotLowered(
            "the heads of the attention's result are interleaved: one linear layer with constant weights would have "
            f"to read them, but {listed(read_by(found.node)) or 'nothing'} does"
        )
    return found


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
