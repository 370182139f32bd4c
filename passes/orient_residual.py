"""Puts the residual stream first in every residual addition."""

from torch.fx import GraphModule, Node

from .graph import aten, clean_up, find, is_call, is_constant, shape_of


def orient_residual(graph_module: GraphModule) -> GraphModule:
    """Exchanges the arguments of additions whose first argument alone comes from a linear.

    before: add(branch, stream)   with branch = linear(...)
    after:  add(stream, branch)
    """
    for node in find(graph_module, aten.add.Tensor):
        first, second = node.args
        if node.kwargs.get("alpha", 1) == 1 and _is_branch(first) and _is_stream(second, node):
            node.args = (second, first)
    return clean_up(graph_module)


def _is_branch(value: object) -> bool:
    return is_call(value, aten.linear.default)


def _is_stream(value: object, addition: Node) -> bool:
    if not isinstance(value, Node) or is_constant(value) or _is_branch(value):
        return False
    return shape_of(value) == shape_of(addition)
