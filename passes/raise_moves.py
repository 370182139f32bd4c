"""Moves tokens in front of the linear that is added to the residual stream, not behind it."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from .graph import aten, call, clean_up, find, is_call, keep_module, shape_of
from .layout import NOTHING, gather_rows, is_layout, is_transposition, moved_rows, trace


def raise_moves(graph_module: GraphModule) -> GraphModule:
    """Runs a linear on tokens that are moved already, so that its result is what is added to the stream.

    Window attention puts its windows together again, takes back a shift, and leaves out what was padded, behind its
    projection.

    before: add(x, reshape(permute(reshape(linear(y)))))
    after:  add(x, linear(reshape(index_select(y, 1, index))))
    """
    for node in find(graph_module, aten.add.Tensor):
        for operand in node.args[:2]:
            if isinstance(operand, Node):
                _raise(graph_module, operand)
    return clean_up(graph_module)


def _raise(graph_module: GraphModule, moved: Node) -> None:
    linear, chain = trace(moved, lambda node: is_layout(node) and len(node.users) == 1)
    if not chain or not is_call(linear, aten.linear.default) or len(linear.users) != 1:
        return
    positions, shape = moved_rows(linear, moved), shape_of(linear)
    if (
        positions is None
        or bool((positions == NOTHING).any())
        or (len(shape) == 3 and is_transposition(shape, positions))
    ):
        return  # sink_layouts brings a transposition the other way
    source = linear.args[0]
    assert isinstance(source, Node)
    with graph_module.graph.inserting_before(moved):
        rows = gather_rows(graph_module, source, positions)
        raised = call(graph_module, aten.linear.default, rows, *linear.args[1:])
    moved.replace_all_uses_with(keep_module(raised, linear))
