"""Moves tokens in front of the linear that is added to the residual stream, not behind it."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from .graph import aten, call, clean_up, find, is_call, keep_module, shape_of
from .layout import NOTHING, gather_rows, is_layout, is_transposition, moved_rows, trace
from .patterns import is_channel_norm


def raise_moves(graph_module: GraphModule) -> GraphModule:
    """Runs a linear on tokens that are moved already, so that its result is what is added to the stream.

    Window attention puts its windows together again, takes back a shift, and leaves out what was padded, behind its
    projection. The same for the LayerNorm of a post-norm, and the linear in front of it.

    before: add(x, reshape(permute(reshape(linear(y)))))
    after:  add(x, linear(reshape(index_select(y, 1, index))))
    """
    for node in find(graph_module, aten.add.Tensor):
        for operand in node.args[:2]:
            if isinstance(operand, Node):
                branch = _raise(graph_module, operand)
                if is_channel_norm(branch) and len(branch.users) == 1:
                    _raise(graph_module, branch.args[0])  # type: ignore[arg-type]
    return clean_up(graph_module)


def _raise(graph_module: GraphModule, moved: Node) -> Node:
    """What computes a value, behind the moves of its rows if it is a linear or a LayerNorm that nothing else reads."""
    branch, chain = trace(moved, lambda node: is_layout(node) and len(node.users) == 1)
    works_on_rows = is_call(branch, aten.linear.default) or is_channel_norm(branch)
    if not chain or not works_on_rows or len(branch.users) != 1:
        return branch
    positions, shape = moved_rows(branch, moved), shape_of(branch)
    if (
        positions is None
        or bool((positions == NOTHING).any())
        or (len(shape) == 3 and is_transposition(shape, positions))
    ):
        return branch  # sink_layouts brings a transposition the other way
    source = branch.args[0]
    assert isinstance(source, Node) and callable(branch.target)
    with graph_module.graph.inserting_before(moved):
        rows = gather_rows(graph_module, source, positions)
        raised = call(graph_module, branch.target, rows, *branch.args[1:])
    moved.replace_all_uses_with(keep_module(raised, branch))
    for node in (*reversed(chain), branch):  # else it would read what is in front of it a second time
        graph_module.graph.erase_node(node)
    return raised
