"""Splits a fused projection into one linear for each of q, k and v, or of a gate and what it multiplies."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import (
    add_linear,
    aten,
    call,
    clean_up,
    find,
    has_tensor,
    is_call,
    linear_parameters,
    replacing,
    reshape,
    shape_of,
)
from .layout import REPEATS, head_features, index_map, is_layout, trace
from .patterns import UNARY_FUNCTIONS

logger = logging.getLogger(__name__)

_CONSUMERS = {
    aten.scaled_dot_product_attention.default,
    aten.matmul.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.rms_norm.default,
    aten.layer_norm.default,
    aten.einsum.default,
    torch.ops.packqvit.rotary.default,
    torch.ops.packqvit.relative_bias.default,
    *REPEATS,
    *UNARY_FUNCTIONS,
}


@dataclass(frozen=True)
class _Part:
    """One of the tensors that attention takes out of the fused projection.

    Attributes:
        node: The last node that only moves elements, or the last before one that cuts tokens up, as into rows of a map.
        features: Output features of the projection by head and channel, [H, d].
        layout: "tokens" for [B, N, H * d], "heads" for [B, H, N, d], "transposed" for [B, H, d, N].
    """

    node: Node
    features: Tensor
    layout: str

    @property
    def key(self) -> tuple[int, ...]:
        return tuple(self.features.flatten().tolist())


def split_qkv(graph_module: GraphModule) -> GraphModule:
    """Gathers the weight rows of q, k and v out of a fused linear, whatever the layout of its output.

    A linear that is used by anything but attention, or whose tokens get mixed, is left alone.

    before: linear [B, N, 3D] -> reshape [B, N, 3, H, d] -> permute [2, 0, 3, 1, 4] -> unbind -> q, k, v
    after:  three times linear [B, N, D] -> reshape [B, N, H, d] -> permute [0, 2, 1, 3]
    """
    for linear in find(graph_module, aten.linear.default):
        parameters = linear_parameters(graph_module, linear)
        if parameters is None or len(shape_of(linear)) < 3:
            continue
        for rows in _groupings(shape_of(linear)[:-1]):
            parts = _parts(linear, rows)
            if parts is not None:
                _split(graph_module, linear, parameters, parts, rows)
                break
    return clean_up(graph_module)


def _groupings(leading: tuple[int, ...]) -> list[tuple[int, int]]:
    """What may be batch and tokens of a linear's rows: [B, N] as they are, maps [B, h, w], windows [B, windows, N]."""
    cuts = range(1, len(leading))
    return [(math.prod(leading[:cut]), math.prod(leading[cut:])) for cut in cuts]


def _parts(linear: Node, rows: tuple[int, int]) -> list[_Part] | None:
    """What attention reads from a fused linear, or None when it is not one, or not only that."""
    leaves = _leaves(linear)
    if len(leaves) < 2:
        return None
    if not all(is_call(user, *_CONSUMERS) for leaf in leaves for user in leaf.users if not is_layout(user)):
        return None
    parts = [_part_before(linear, leaf, rows) for leaf in leaves]
    if any(part is None for part in parts):
        logger.debug("%s: its output is rearranged across tokens, so it is not split", linear.name)
        return None
    keys = {part.key for part in parts if part is not None}
    features = [feature for key in keys for feature in key]
    if len(keys) < 2 or len(set(features)) != len(features):
        return None
    return sorted((part for part in parts if part is not None), key=lambda part: min(part.key))


def _leaves(node: Node) -> list[Node]:
    """The last layout nodes behind `node`: those that something else reads."""
    leaves = [node] if any(not is_layout(user) for user in node.users) else []
    return leaves + [leaf for user in node.users if is_layout(user) for leaf in _leaves(user)]


def _part_before(linear: Node, leaf: Node, rows: tuple[int, int]) -> _Part | None:
    """The part that a leaf is, or is made of by moves."""
    while leaf is not linear:
        if has_tensor(leaf) and (part := _part(linear, leaf, rows)) is not None:
            return part
        leaf = leaf.args[0]  # type: ignore[assignment]
    return None


def _part(linear: Node, leaf: Node, rows: tuple[int, int]) -> _Part | None:
    if leaf is linear or len(shape_of(leaf)) < 2:
        return None
    (batch, tokens), features = rows, shape_of(linear)[-1]
    _, chain = trace(leaf)
    index = index_map(linear, chain)
    layouts = {"heads": index, "transposed": index.transpose(-1, -2)}
    if index.numel() % (batch * tokens) == 0:
        layouts = {"tokens": index.reshape(batch, tokens, -1), **layouts}
    for layout, view in layouts.items():
        found = head_features(view, batch, tokens, features)
        if found is not None:
            return _Part(leaf, found, layout)
    return None


def _split(
    graph_module: GraphModule,
    linear: Node,
    parameters: tuple[Tensor, Tensor | None],
    parts: list[_Part],
    grouping: tuple[int, int],
) -> None:
    weight, bias = parameters
    batch, tokens = grouping
    x: Any = linear.args[0]
    with graph_module.graph.inserting_before(linear):
        x = reshape(graph_module, x, [batch, tokens, shape_of(x)[-1]])
    linears: dict[tuple[int, ...], Node] = {}
    for part in parts:
        rows = part.features.flatten()
        heads, channels = part.features.shape
        with graph_module.graph.inserting_before(linear):
            if part.key not in linears:
                suffix = str(len(linears))
                selected = None if bias is None else bias[rows]
                linears[part.key] = add_linear(graph_module, linear, weight[rows], selected, suffix, x)
        with replacing(graph_module, part.node):
            node = linears[part.key]
            if part.layout != "tokens":
                node = reshape(graph_module, node, [batch, tokens, heads, channels])
                node = call(graph_module, aten.permute.default, node, [0, 2, 1, 3])
            if part.layout == "transposed":
                node = call(graph_module, aten.transpose.int, node, -2, -1)
            node = reshape(graph_module, node, shape_of(part.node))
        part.node.replace_all_uses_with(node)
