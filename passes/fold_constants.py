"""Evaluates what does not depend on the input."""

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .graph import (
    add_constant,
    aten,
    clean_up,
    constant,
    dtype_of,
    has_tensor,
    is_call,
    is_constant,
    is_trainable,
    shape_of,
)

_SHAPED_LIKE = (
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
)
"""Operators that read the shape and the type of a tensor, not its elements."""


def fold_constants(graph_module: GraphModule) -> GraphModule:
    """Evaluates subgraphs of constants once. A result of parameters is a parameter again.

    before: get_attr cls_token [1, 1, D] -> expand [B, 1, D] -> cat
    after:  get_attr expand_folded [B, 1, D] -> cat
    """
    values: dict[Node, Any] = {}
    trainable: set[Node] = set()
    for node in graph_module.graph.nodes:
        if is_constant(node):
            values[node] = constant(graph_module, node)
            if is_trainable(graph_module, node):
                trainable.add(node)
        elif is_call(node, *_SHAPED_LIKE):
            like = torch.empty(shape_of(node.args[0]), dtype=dtype_of(node.args[0]))
            values[node] = node.target(like, *node.args[1:], **node.kwargs)
        elif _is_foldable(node) and all(argument in values for argument in node.all_input_nodes):
            args, kwargs = map_arg((node.args, node.kwargs), lambda argument: values[argument])
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
            if trainable.intersection(node.all_input_nodes):
                trainable.add(node)
    for node, value in values.items():
        needed = any(user not in values for user in node.users)
        if node.op != "call_function" or not needed or not has_tensor(node):
            continue
        with graph_module.graph.inserting_before(node):
            folded = add_constant(graph_module, value, f"{node.name}_folded", node in trainable)
        node.replace_all_uses_with(folded)
    return clean_up(graph_module)


def _is_foldable(node: Node) -> bool:
    if node.op != "call_function":
        return False
    if not isinstance(node.target, torch._ops.OpOverload):
        return bool(node.all_input_nodes)
    random = torch.Tag.nondeterministic_seeded in node.target.tags
    return not random and not node.target._schema.is_mutable and bool(node.target._schema.returns)
