"""Computes only the tokens that are used: the last block's queries, projection and MLP run on the class token alone."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .graph import add_constant, arguments, call, clean_up, constant, is_call, is_constant, shape_of
from .integer.context import keep_trace

ops = torch.ops.packqvit

_PER_TOKEN: dict[object, tuple[int, ...]] = {
    ops.layer_norm.default: (0,),
    ops.layer_norm_add.default: (0, 4),
    ops.head_norm.default: (0,),
    ops.requantize.default: (0,),
    ops.requantize_add.default: (0, 3),
    ops.multiply.default: (0, 1),
    ops.rotate.default: (0,),
    ops.lookup_table.default: (0,),
    ops.linear.default: (0,),
    ops.linear_accumulate.default: (0,),
    ops.linear_add.default: (0, 5),
}
"""Operators that treat tokens alone, and which of their arguments have a token axis."""


def hoist_token_select(graph_module: GraphModule) -> GraphModule:
    """Moves select_tokens up through every operator that treats tokens alone, and through attention to its queries.

    Before: select_tokens(linear_add(lookup_table(linear(layer_norm(x))), x))
    After:  linear_add(lookup_table(linear(layer_norm(select_tokens(x)))), select_tokens(x))

    Where several selections read one operator, as the two heads of a distilled DeiT do, it runs for the tokens of all.
    Exact: the selected tokens get the same bits.
    """
    for node in reversed(list(graph_module.graph.nodes)):
        selects = list(node.users)
        if node._erased or not selects or not all(is_call(user, ops.select_tokens.default) for user in selects):
            continue
        indices = [list(user.args[1]) for user in selects]
        index = indices[0] if all(other == indices[0] for other in indices) else sorted(set(itertools.chain(*indices)))
        if len(index) >= shape_of(node)[1] or min(index) < 0:
            continue  # all tokens, in another order, or with others between them: nothing would be saved
        hoisted = _hoist(graph_module, node, index)
        if hoisted is not None:
            for user, wanted in zip(selects, indices, strict=True):
                _replace(graph_module, user, hoisted, None if wanted == index else [index.index(i) for i in wanted])
    return clean_up(graph_module)


def _replace(graph_module: GraphModule, select: Node, hoisted: Node, index: list[int] | None) -> None:
    """Puts what runs for few tokens, or some of them, in the place of a selection."""
    if index is not None:
        with graph_module.graph.inserting_before(select):
            hoisted = keep_trace(call(graph_module, ops.select_tokens.default, hoisted, index), select)
    select.replace_all_uses_with(hoisted)
    _erase(select)


def _hoist(graph_module: GraphModule, node: Node, index: list[int]) -> Node | None:
    if node.op == "call_function" and node.target in _PER_TOKEN:
        changes = {i: _select(graph_module, node, i, index) for i in _PER_TOKEN[node.target]}
        if is_call(node, ops.rotate.default):
            changes.update({i: _select_rows(graph_module, node, i, index) for i in (1, 2)})
        return _copy(graph_module, node, changes)
    if is_call(node, ops.repeat_tokens.default):
        return _copy(graph_module, node, {0: _select(graph_module, node, 0, index)})
    if is_call(node, ops.attention_values.default):
        return _hoist_attention(graph_module, node, index)
    return None


def _hoist_attention(graph_module: GraphModule, values: Node, index: list[int]) -> Node | None:
    softmax = values.args[0]
    if not is_call(softmax, ops.softmax.default) or len(softmax.users) != 1:  # type: ignore[union-attr]
        return None
    if arguments(softmax)["groups"] is not None:  # type: ignore[arg-type]
        return None  # of as many queries as keys
    scores = softmax.args[0]  # type: ignore[union-attr]
    if not is_call(scores, ops.attention_scores.default) or len(scores.users) != 1:  # type: ignore[union-attr]
        return None
    few_scores = _copy(graph_module, scores, {0: _select(graph_module, scores, 0, index)})  # type: ignore[arg-type]
    changes: dict[int, Node] = {0: few_scores}
    bias = softmax.args[1]  # type: ignore[union-attr]
    if isinstance(bias, Node):
        with graph_module.graph.inserting_before(softmax):  # type: ignore[arg-type]
            changes[1] = add_constant(graph_module, constant(graph_module, bias)[:, index], "attention_bias")
    few_probabilities = _copy(graph_module, softmax, changes)  # type: ignore[arg-type]
    return _copy(graph_module, values, {0: few_probabilities})


def _select(graph_module: GraphModule, node: Node, argument: int, index: list[int]) -> Node:
    source: Any = node.args[argument]
    with graph_module.graph.inserting_before(node):
        if is_constant(source):  # queries of all images
            return add_constant(graph_module, constant(graph_module, source)[:, index], str(source.target))
        return keep_trace(call(graph_module, ops.select_tokens.default, node.args[argument], index), node)


def _select_rows(graph_module: GraphModule, node: Node, argument: int, index: list[int]) -> Node:
    """Of a constant [N, ...] that differs between tokens."""
    source: Any = node.args[argument]
    with graph_module.graph.inserting_before(node):
        return add_constant(graph_module, constant(graph_module, source)[index], str(source.target))


def _copy(graph_module: GraphModule, node: Node, changes: dict[int, Node]) -> Node:
    args = (changes.get(i, argument) for i, argument in enumerate(node.args))
    with graph_module.graph.inserting_before(node):
        return keep_trace(call(graph_module, node.target, *args), node)  # type: ignore[arg-type]


def _erase(node: Node) -> None:
    """Removes a node and what only it used: dead users would keep their inputs from being hoisted."""
    inputs = node.all_input_nodes
    node.graph.erase_node(node)
    for argument in inputs:
        if argument.op == "call_function" and not argument.users and not argument._erased:
            _erase(argument)
