"""Gathers class, distillation and register tokens and the position embedding into two constants."""

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
    is_call,
    is_constant,
    is_trainable,
    reshape,
    shape_of,
)
from .layout import apply, is_bijective

logger = logging.getLogger(__name__)


@dataclass
class _Segment:
    """A run of tokens: constants, or patches plus a constant.

    Attributes:
        length: Number of tokens.
        offset: The constant [B, length, D]; None for patches that nothing was added to.
        first: Number of the first patch; None when all of it is constant.
    """

    length: int
    offset: Tensor | None
    first: int | None = None

    def plus(self, tensor: Tensor) -> "_Segment":
        return _Segment(self.length, tensor if self.offset is None else self.offset + tensor, self.first)

    def part(self, start: int, stop: int) -> "_Segment":
        offset = None if self.offset is None else self.offset[:, start:stop]
        return _Segment(stop - start, offset, None if self.first is None else self.first + start)


def fold_embeddings(graph_module: GraphModule) -> GraphModule:
    """Folds additions, concatenations and slices of constants and patches into one prefix and one position embedding.

    before: cat([cls_token, patches], 1) -> add(position [1, 1 + P, D])   (or add before cat, registers between, ...)
    after:  cat([prefix [B, T, D], add(patches, position [1, P, D])], 1)
    """
    for conv in find(graph_module, aten.conv2d.default, aten.conv2d.padding):
        tokens = _tokens(graph_module, conv)
        if tokens is not None:
            _fold(graph_module, tokens)
    return clean_up(graph_module)


def _tokens(graph_module: GraphModule, conv: Node) -> Node | None:
    """The node [B, P, D] behind the patch convolution, spelled reshape [B, D, P] -> transpose(1, 2)."""
    batch, channels, height, width = shape_of(conv)
    index = torch.arange(batch * channels * height * width).reshape(batch, channels, height, width)
    wanted = index.flatten(2).transpose(1, 2)
    node = conv
    while len(node.users) == 1 and is_bijective(user := next(iter(node.users))):
        node, index = user, apply(user, index)
        if index.shape == wanted.shape and torch.equal(index, wanted):
            break
    else:
        return None
    flat = node.args[0]
    if is_call(node, aten.transpose.int) and node.args[1:] == (1, 2) and is_call(flat, aten.reshape.default):
        if flat.args[0] is conv:  # type: ignore[union-attr]
            return node
    with graph_module.graph.inserting_before(node):
        spelled = reshape(graph_module, conv, [batch, channels, height * width])
        spelled = call(graph_module, aten.transpose.int, spelled, 1, 2)
    node.replace_all_uses_with(spelled)
    return spelled


def _fold(graph_module: GraphModule, tokens: Node) -> None:
    batch, patches, channels = shape_of(tokens)
    values: dict[Node, list[_Segment]] = {tokens: [_Segment(patches, None, 0)]}
    used: list[Node] = []
    for node in graph_module.graph.nodes:
        if any(argument in values for argument in node.all_input_nodes):
            segments = _interpret(graph_module, node, values)
            if segments is not None:
                values[node] = segments
                used.extend(argument for argument in node.all_input_nodes if is_constant(argument))
    ends = [node for node in values if any(user not in values for user in node.users)]
    if len(ends) != 1:
        logger.debug("%s: the tokens are read before the embedding is complete, so it stays", tokens.name)
        return
    (end,) = ends
    *prefix, last = values[end]
    if last.first != 0 or last.length != patches or any(segment.first is not None for segment in prefix):
        logger.debug("%s: constants do not all come before the patches, so the embedding stays", end.name)
        return
    if _is_canonical(end, tokens):
        return
    position = last.offset
    if position is not None and not torch.equal(position, position[:1].expand_as(position)):
        logger.debug("%s: the position embedding differs within the batch, so it stays", end.name)
        return
    trainable = is_trainable(graph_module, *used)
    with graph_module.graph.inserting_before(end):
        node = tokens
        if position is not None:
            node = call(
                graph_module, aten.add.Tensor, node, add_constant(graph_module, position[:1], "position", trainable)
            )
        if prefix:
            constants = torch.cat([segment.offset for segment in prefix], 1)  # type: ignore[misc]
            prefix_node = add_constant(graph_module, constants.expand(batch, -1, channels), "prefix", trainable)
            node = call(graph_module, aten.cat.default, [prefix_node, node], 1)
    end.replace_all_uses_with(node)


def _is_canonical(end: Node, tokens: Node) -> bool:
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
    return node is tokens


def _interpret(graph_module: GraphModule, node: Node, values: dict[Node, list[_Segment]]) -> list[_Segment] | None:
    """The segments that `node` holds, or None when it does more than the embedding's operators."""
    if is_call(node, aten.add.Tensor) and arguments(node)["alpha"] == 1:
        return _added(graph_module, node, values)
    if is_call(node, aten.cat.default) and arguments(node)["dim"] in (1, -2) and len(shape_of(node)) == 3:
        batch, _, channels = shape_of(node)
        result: list[_Segment] = []
        for item in node.args[0]:  # type: ignore[union-attr]
            if item in values:
                result.extend(values[item])  # type: ignore[index]
            elif is_constant(item):
                tensor = constant(graph_module, item)  # type: ignore[arg-type]
                result.append(_Segment(tensor.shape[1], tensor.expand(batch, -1, channels)))
            else:
                return None
        return _joined(result)
    if is_call(node, aten.slice.Tensor) and node.args[0] in values:
        named = arguments(node)
        if named["dim"] in (1, -2) and named["step"] == 1:
            total = shape_of(node.args[0])[1]  # type: ignore[arg-type]
            start, stop, _ = slice(named["start"], named["end"]).indices(total)
            return _sliced(values[node.args[0]], start, stop)  # type: ignore[index]
    return None


def _added(graph_module: GraphModule, node: Node, values: dict[Node, list[_Segment]]) -> list[_Segment] | None:
    stream, other = node.args if node.args[0] in values else node.args[::-1]
    if stream not in values or not is_constant(other) or shape_of(node) != shape_of(stream):  # type: ignore[arg-type]
        return None
    tensor = constant(graph_module, other).expand(shape_of(node))  # type: ignore[arg-type]
    result, start = [], 0
    for segment in values[stream]:  # type: ignore[index]
        result.append(segment.plus(tensor[:, start : start + segment.length]))
        start += segment.length
    return result


def _sliced(segments: list[_Segment], start: int, stop: int) -> list[_Segment]:
    result, position = [], 0
    for segment in segments:
        low, high = max(start - position, 0), min(stop - position, segment.length)
        if low < high:
            result.append(segment.part(low, high))
        position += segment.length
    return result


def _joined(segments: list[_Segment]) -> list[_Segment]:
    """Puts neighbouring runs of patches together again."""
    result: list[_Segment] = []
    for segment in segments:
        last = result[-1] if result else None
        follows = last is not None and last.first is not None and segment.first == last.first + last.length
        if last is not None and follows and (last.offset is None) == (segment.offset is None):
            offset = None if last.offset is None else torch.cat([last.offset, segment.offset], 1)  # type: ignore[list-item]
            result[-1] = _Segment(last.length + segment.length, offset, last.first)
        else:
            result.append(segment)
    return result
