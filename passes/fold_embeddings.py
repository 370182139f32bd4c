"""Gathers class, distillation and register tokens and the position embedding into two constants."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    arguments,
    aten,
    call,
    clean_up,
    constant,
    find,
    has_tensor,
    is_call,
    is_constant,
    is_part,
    is_trainable,
    replacing,
    reshape,
    shape_of,
)
from .layout import apply, is_layout, row_positions

logger = logging.getLogger(__name__)

_CONSTANT = -1


@dataclass
class _Tokens:
    """What a value holds, element by element: patches plus constants, and constants alone.

    Attributes:
        source: The element of the patches [B, P, D] that each element is made of, int64; _CONSTANT where there is none.
        offset: The constant that is added to it, or that it is.
        added: Whether something was added.
    """

    source: Tensor
    offset: Tensor
    added: bool = False


_Values = dict[Node, _Tokens]


def fold_embeddings(graph_module: GraphModule) -> GraphModule:
    """Folds additions and concatenations of constants and patches into one prefix and one position embedding.

    The patches may be in any layout and order while that happens: what the constants mean for the patches in the
    order of the image is found by following every element.

    before: cat([cls_token, patches], 1) -> add(position [1, 1 + P, D])   (or add before cat, registers between, ...)
    after:  cat([prefix [B, T, D], add(patches, position [1, P, D])], 1)
            -> index_select(1, index) -> reshape, where the tokens are not prefix and patches row by row
    """
    for convolution in find(graph_module, aten.conv2d.default):
        if len(shape_of(convolution)) == 4:
            _fold(graph_module, convolution)
    return clean_up(graph_module)


def _fold(graph_module: GraphModule, convolution: Node) -> None:
    end, values, used = _end(graph_module, convolution)
    if end is None:
        logger.debug("%s: the tokens are read before the embedding is complete, so it stays", convolution.name)
        end, used = _first_tokens(values), set()
    if end is None or _is_canonical(end, convolution):
        return
    batch, channels, height, width = shape_of(convolution)
    layout = _Layout.of(values[end], batch, height * width, channels)
    if layout is None:
        logger.debug("%s: the embedding differs within the batch, so it stays", end.name)
        return
    trainable = is_trainable(graph_module, *used)
    with replacing(graph_module, end):
        node = reshape(graph_module, convolution, [batch, channels, height * width])
        node = call(graph_module, aten.transpose.int, node, 1, 2)
        if layout.position is not None:
            position = add_constant(graph_module, layout.position, "position", trainable)
            node = call(graph_module, aten.add.Tensor, node, position)
        if layout.prefix.shape[1]:
            prefix = add_constant(graph_module, layout.prefix, "prefix", trainable)
            node = call(graph_module, aten.cat.default, [prefix, node], 1)
        if not torch.equal(layout.index, torch.arange(shape_of(node)[1])):
            index = add_constant(graph_module, layout.index, "token_order")
            node = call(graph_module, aten.index_select.default, node, 1, index)
        node = reshape(graph_module, node, shape_of(end))
    end.replace_all_uses_with(node)


@dataclass
class _Layout:
    """The canonical form of what a value holds.

    Attributes:
        position: [1, P, D], of the patches in the order of the image; None where nothing is added.
        prefix: [B, T, D], the constant tokens.
        index: int64 [N], where in prefix and patches each token is.
    """

    position: Tensor | None
    prefix: Tensor
    index: Tensor

    @classmethod
    def of(cls, tokens: _Tokens, batch: int, patches: int, channels: int) -> _Layout | None:
        """None where the images of a batch are mixed or get different constants."""
        rows = _rows(tokens, channels).reshape(-1)
        if len(rows) % batch:
            return None
        rows = rows.reshape(batch, -1)
        first = torch.arange(batch).unsqueeze(1) * patches
        chosen = torch.where(rows == _CONSTANT, _CONSTANT, rows - first)
        if not torch.equal(chosen, chosen[:1].expand_as(chosen)):
            return None
        order, offset = chosen[0], tokens.offset.reshape(batch, -1, channels)
        is_patch = order != _CONSTANT
        found = order[is_patch]
        if len(found) == 0 or found.min() < 0 or found.max() >= patches or len(found.unique()) != len(found):
            return None
        position = None
        if tokens.added and bool(is_patch.any()):
            added = offset[:, is_patch]
            if not torch.equal(added, added[:1].expand_as(added)):
                return None
            position = torch.zeros(1, patches, channels, dtype=offset.dtype)
            position[:, found] = added[:1]
        prefix = offset[:, ~is_patch]
        index = torch.empty_like(order)
        index[~is_patch] = torch.arange(prefix.shape[1])
        index[is_patch] = found + prefix.shape[1]
        return cls(position, prefix, index)


def _rows(tokens: _Tokens, channels: int) -> Tensor:
    """The patch of each token, int64 [...]; _CONSTANT for constant ones. Tokens have to be whole."""
    return torch.where(tokens.source[..., 0] == _CONSTANT, _CONSTANT, tokens.source[..., 0] // channels)


def _is_whole(tokens: _Tokens, channels: int) -> bool:
    """Whether the last axis are the channels of one token each."""
    if tokens.source.dim() < 2 or tokens.source.shape[-1] != channels:
        return False
    constant_rows = (tokens.source == _CONSTANT).all(-1)
    return row_positions(tokens.source[~constant_rows], channels) is not None


def _end(graph_module: GraphModule, convolution: Node) -> tuple[Node | None, _Values, set[Node]]:
    """Where the embedding is complete; None where it is read before.

    That is the first value that other operators read, when they read nothing else of the embedding but through it.
    Moves of whole tokens behind one that has them in order are left to them.

    Returns:
        The node, what is known of all values, and the constants that are part of it.
    """
    batch, channels, height, width = shape_of(convolution)
    values = _follow(graph_module, convolution, None)
    ends = _read_by_others(values)
    if not ends:
        return None, values, set()
    end = ends[0]
    before = _follow(graph_module, convolution, end)
    if _read_by_others(before) != [end]:
        return None, values, set()
    whole = []
    while end in values and _is_whole(values[end], channels):
        whole.append(end)
        if not is_layout(end):
            break
        end = end.args[0]  # type: ignore[assignment]
    if not whole:
        return None, values, set()
    in_order = [node for node in whole if _is_in_order(node, values[node], batch, height * width)]
    end = in_order[-1] if in_order else whole[0]
    used = {operand for node in before for operand in node.all_input_nodes if is_constant(operand)}
    return end, values, used - set(convolution.all_input_nodes)


def _is_in_order(node: Node, tokens: _Tokens, batch: int, patches: int) -> bool:
    """Whether a value is [B, T + P, D] with the constant tokens first and the patches in the order of the image."""
    if len(shape_of(node)) != 3 or shape_of(node)[0] != batch:
        return False
    layout = _Layout.of(tokens, batch, patches, shape_of(node)[2])
    return layout is not None and torch.equal(layout.index, torch.arange(layout.prefix.shape[1] + patches))


def _first_tokens(values: _Values) -> Node | None:
    """The first node that only has the patches themselves as tokens [B, P, D], if there is more than one step to it."""
    for node, tokens in values.items():
        if is_call(node, aten.conv2d.default):
            channels = shape_of(node)[1]
        elif tokens.added or bool((tokens.source == _CONSTANT).any()):
            continue
        elif tokens.source.dim() == 3 and _is_whole(tokens, channels):
            rows = _rows(tokens, channels).flatten()
            return node if torch.equal(rows, torch.arange(len(rows))) else None
    return None


def _read_by_others(values: _Values) -> list[Node]:
    """The nodes that something else than the embedding's operators reads."""
    return [node for node in values if any(user not in values for user in node.users)]


def _follow(graph_module: GraphModule, convolution: Node, last: Node | None) -> _Values:
    """What the values behind a patch convolution hold, not through `last`."""
    batch, channels, height, width = shape_of(convolution)
    source = torch.arange(batch * height * width * channels).reshape(batch, height, width, channels)
    source = source.permute(0, 3, 1, 2)
    values = {convolution: _Tokens(source, torch.zeros(source.shape, dtype=convolution.meta["val"].dtype))}
    if last is convolution:
        return values
    for node in graph_module.graph.nodes:
        if any(operand in values and operand is not last for operand in node.all_input_nodes):
            tokens = _interpret(graph_module, node, values, last)
            if tokens is not None:
                values[node] = tokens
    return values


def _interpret(graph_module: GraphModule, node: Node, values: _Values, last: Node | None) -> _Tokens | None:
    """What `node` holds, or None when it does more than the embedding's operators."""
    known = {operand: values[operand] for operand in node.all_input_nodes if operand in values and operand is not last}
    if is_call(node, aten.add.Tensor) and arguments(node)["alpha"] == 1 and len(known) == 1:
        ((x, tokens),) = known.items()
        other = node.args[1] if node.args[0] is x else node.args[0]
        if not is_constant(other) or shape_of(node) != shape_of(x):
            return None
        return _Tokens(tokens.source, tokens.offset + constant(graph_module, other), True)  # type: ignore[arg-type]
    if is_call(node, aten.cat.default):
        parts: list[_Tokens] = []
        for item in node.args[0]:  # type: ignore[union-attr]
            if item in known:
                parts.append(known[item])  # type: ignore[index]
            elif is_constant(item):
                value = constant(graph_module, item)  # type: ignore[arg-type]
                parts.append(_Tokens(torch.full(value.shape, _CONSTANT), value))
            else:
                return None
        axis = arguments(node)["dim"]
        source, offset = (torch.cat([getattr(part, field) for part in parts], axis) for field in ("source", "offset"))
        return _Tokens(source, offset, any(part.added for part in parts))
    if not is_layout(node) or node.args[0] not in known:
        return None
    tokens = known[node.args[0]]  # type: ignore[index]
    if not has_tensor(node):  # a list of parts: they are taken out of the whole
        return tokens
    moves = [node.args[0], node] if is_part(node) else [node]
    source, offset = tokens.source, tokens.offset
    for move in moves:
        source, offset = apply(move, source), apply(move, offset)  # type: ignore[arg-type]
    return _Tokens(source, offset, tokens.added)


def _is_canonical(end: Node, convolution: Node) -> bool:
    """Whether a value is spelled as `_fold` spells it."""
    node: Any = end
    if is_call(node, aten.cat.default):
        items: Sequence[Any] = node.args[0]
        if len(items) != 2 or not is_constant(items[0]) or node.args[1:] != (1,):
            return False
        node = items[1]
    if is_call(node, aten.add.Tensor):
        if not is_constant(node.args[1]) or len(shape_of(node.args[1])) != 3 or shape_of(node.args[1])[0] != 1:
            return False
        node = node.args[0]
    flat: Any = node.args[0] if is_call(node, aten.transpose.int) and node.args[1:] == (1, 2) else None
    return is_call(flat, aten.reshape.default) and flat.args[0] is convolution
