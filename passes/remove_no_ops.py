"""Removes what computes nothing at inference and normalises the spelling of what only moves elements."""

import torch
from torch.fx import GraphModule, Node

from .graph import (
    arguments,
    aten,
    call,
    clean_up,
    dtype_of,
    find,
    has_tensor,
    is_call,
    is_constant,
    is_part,
    replacing,
    reshape,
    scalar_value,
    scaling,
    shape_of,
)
from .layout import COPIES, PERMUTES, RESHAPES, index_map, is_bijective, permutation, trace

DROPOUTS = {
    aten.dropout.default,
    aten.dropout_.default,
    aten.feature_dropout.default,
    aten.feature_dropout_.default,
    aten.alpha_dropout.default,
}
_CONVERSIONS = {
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten.to.other,
    aten._to_copy.default,
    aten.type_as.default,
    aten.expand.default,
    aten.expand_as.default,
}


def remove_no_ops(graph_module: GraphModule) -> GraphModule:
    """Removes dropout, copies, no-op conversions and moves; spells moves as reshape, permute, transpose and select.

    before: linear -> dropout -> contiguous -> view [B, -1, D] -> flatten -> unflatten -> add 0
    after:  linear -> reshape [B, N, D]
    """
    graph = graph_module.graph
    for node in find(graph_module, aten._assert_tensor_metadata.default):
        graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        with replacing(graph_module, node):
            replacement = _source(graph_module, node) or _normal_form(graph_module, node)
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    return clean_up(graph_module)


def active_dropouts(graph_module: GraphModule) -> list[Node]:
    """The dropouts that draw random numbers: in training mode, with p > 0."""
    found = []
    for node in find(graph_module, *DROPOUTS, aten.native_dropout.default):
        named = arguments(node)
        if named["train"] and named["p"] > 0:
            found.append(node)
    return found


def _source(graph_module: GraphModule, node: Node) -> Node | None:
    """The node that `node` only repeats."""
    if is_call(node, *DROPOUTS):
        named = arguments(node)
        return None if named["train"] and named["p"] > 0 else named["input"]
    if is_part(node) and is_call(node.args[0], aten.native_dropout.default):
        dropout = node.args[0]
        return dropout.args[0] if node.args[1] == 0 and dropout.args[2] is False else None  # type: ignore[union-attr, return-value]
    x = node.args[0] if node.args else None
    if not isinstance(x, Node) or not has_tensor(x) or not has_tensor(node):
        return None
    if is_call(node, *COPIES):
        return x
    if is_call(node, aten.pad.default, aten.constant_pad_nd.default) and not any(node.args[1]):  # type: ignore[arg-type]
        return x
    if (number := _neutral(graph_module, node)) is not None:
        return number
    same = shape_of(x) == shape_of(node) and dtype_of(x) == dtype_of(node)
    if same and is_call(node, *_CONVERSIONS, *RESHAPES, aten.slice.Tensor, aten.narrow.default):
        return x if not is_call(node, aten.slice.Tensor) or arguments(node)["step"] == 1 else None
    return _start_of_round_trip(node) if is_call(node, *RESHAPES, *PERMUTES) else None


def _neutral(graph_module: GraphModule, node: Node) -> Node | None:
    """`x` of x * 1, x / 1, x + 0, x - 0.

    A product of scores and the softmax scale stays even if the scale is 1: canonical attention always has it. So does a
    product with a parameter, which training may move away from 1.
    """
    if any(is_constant(argument) and _is_parameter(graph_module, argument) for argument in node.args):
        return None
    if (scaled := scaling(graph_module, node)) is not None:
        x, factor = scaled
        neutral = factor == 1.0 and not is_call(x, aten.matmul.default)
    elif is_call(node, aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar):
        x, other = node.args[:2]  # type: ignore[assignment]
        if is_call(node, aten.add.Tensor) and scalar_value(graph_module, x) is not None:
            x, other = other, x  # type: ignore[assignment]
        neutral = scalar_value(graph_module, other) == 0.0
    else:
        return None
    same = has_tensor(x) and shape_of(x) == shape_of(node) and dtype_of(x) == dtype_of(node)
    return x if neutral and same else None


def _is_parameter(graph_module: GraphModule, node: object) -> bool:
    return str(node.target) in dict(graph_module.named_parameters(remove_duplicate=False))  # type: ignore[attr-defined]


def _start_of_round_trip(node: Node) -> Node | None:
    """The tensor that a chain of moves ending at `node` restores element by element."""
    base, chain = trace(node, is_bijective)
    for start, origin in enumerate([base, *chain[:-1]]):
        if shape_of(origin) == shape_of(node):
            index = index_map(origin, chain[start:])
            if torch.equal(index.flatten(), torch.arange(index.numel())):
                return origin
    return None


def _normal_form(graph_module: GraphModule, node: Node) -> Node | None:
    """The same move as a reshape of the earliest tensor, a permute or a select; the same scaling as a mul."""
    if is_call(node, *RESHAPES):
        x = node.args[0]
        if is_call(x, aten.slice.Tensor) and (token := _selection(x, node)) is not None:  # type: ignore[arg-type]
            return call(graph_module, aten.select.int, x.args[0], 1, token)  # type: ignore[union-attr]
        if is_call(x, aten.reshape.default):
            return reshape(graph_module, x.args[0], shape_of(node))  # type: ignore[union-attr, arg-type]
        if node.target is aten.reshape.default and list(node.args[1]) == list(shape_of(node)):  # type: ignore[arg-type]
            return None
        return call(graph_module, aten.reshape.default, x, list(shape_of(node)))
    if (scaled := scaling(graph_module, node)) is not None and not isinstance(node.args[1], float):
        constants = [argument for argument in node.args if is_constant(argument)]
        if dtype_of(node).is_floating_point and not any(_is_parameter(graph_module, item) for item in constants):
            return call(graph_module, aten.mul.Tensor, *scaled)
    if is_call(node, *PERMUTES) and _keeps_order(node):
        return call(graph_module, aten.reshape.default, node.args[0], list(shape_of(node)))
    if is_call(node, *PERMUTES) and not is_call(node, aten.permute.default, aten.transpose.int):
        return call(graph_module, aten.permute.default, node.args[0], permutation(node))
    return None


def _keeps_order(node: Node) -> bool:
    """Whether a permutation only moves axes of size 1, as that of the windows of a map that is one window.

    The exchange of heads and tokens is part of canonical attention, with one head too.
    """
    order = permutation(node)
    if order == [0, 2, 1, 3]:
        return False
    shape = shape_of(node.args[0])  # type: ignore[arg-type]
    moved = [axis for axis in order if shape[axis] != 1]
    return moved == sorted(moved)


def _selection(part: Node, node: Node) -> int | None:
    """The token that a slice of one token followed by the removal of its dimension selects."""
    x = part.args[0]
    shape = shape_of(x)  # type: ignore[arg-type]
    if len(shape) != 3 or shape_of(part) != (shape[0], 1, shape[2]) or shape_of(node) != (shape[0], shape[2]):
        return None
    start = arguments(part)["start"] or 0
    return start + shape[1] if start < 0 else start
