"""Turns programs that write into their tensors into ones that only make new values."""

from __future__ import annotations

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from packqvit_delegate.errors import UnsupportedModelError

from .graph import arguments, aten, call, clean_up, find, has_tensor, is_call, keep_module, shape_of

_SHAPE_READERS = {
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.empty_like.default,
    aten.full_like.default,
    aten.new_zeros.default,
    aten.new_full.default,
    aten.zero.default,
    aten.fill.Scalar,
    aten.fill.Tensor,
    aten.copy.default,
}
"""What takes from its first argument the shape alone."""


def needs_functionalization(graph: Graph) -> bool:
    """Whether a graph of torch.export writes into tensors, or has regions (torch.no_grad, autocast) apart."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if isinstance(node.target, HigherOrderOperator):
            return True
        if isinstance(node.target, OpOverload) and node.target._schema.is_mutable:
            return True
    return False


def functionalize(exported: ExportedProgram) -> GraphModule:
    """The same function without writes; regions of torch.no_grad and autocast become part of the graph.

    before: y = clone(x); add_(y, b); copy_(slice(y, 1, 0, 1), c)
    after:  y = add(x, b); cat([c, slice(y, 1, 1)], 1)

    Linears, convolutions, norms, attention, activations and softmax stay whole, module paths and parameters too.

    Args:
        exported: Of torch.export, with static shapes.

    Returns:
        Its module. What was written into an input or a buffer is not seen outside any more: a program keeps no state.

    Raises:
        UnsupportedModelError: The outputs depend on a buffer that the model writes: on what was run before.
    """
    graph_module = exported.run_decompositions({}).module()
    _remove_final_writes(graph_module)
    for node in find(graph_module, aten.copy.default, aten.slice_scatter.default, aten.select_scatter.default):
        with graph_module.graph.inserting_before(node):
            value = _copied(graph_module, node) if is_call(node, aten.copy.default) else _joined(graph_module, node)
        if value is not None:
            node.replace_all_uses_with(value)
    return clean_up(graph_module)


def functionalize_graph(graph_module: GraphModule) -> GraphModule:
    """As `functionalize`, of an exported module; itself where nothing is written.

    Args:
        graph_module: `torch.export.export(...).module()`, perhaps changed by passes since, with static shapes.

    Raises:
        UnsupportedModelError: As `functionalize`, or the module cannot be exported again.
    """
    if not needs_functionalization(graph_module.graph):
        return graph_module
    inputs = [node.meta.get("val") for node in graph_module.graph.nodes if node.op == "placeholder"]
    if not all(isinstance(value, torch.Tensor) and all(isinstance(n, int) for n in value.shape) for value in inputs):
        return graph_module
    examples = tuple(torch.zeros(value.shape, dtype=value.dtype, device=value.device) for value in inputs)
    return functionalize(torch.export.export(graph_module, examples))


def _remove_final_writes(graph_module: GraphModule) -> None:
    """Removes the writes into inputs and buffers that are left at the end of a functionalised graph.

    Raises:
        UnsupportedModelError: The outputs depend on a buffer that is written.
    """
    graph = graph_module.graph
    writes = [node for node in find(graph_module, aten.copy_.default) if not node.users]
    needed = _needed(graph, {node for node in writes})
    for node in writes:
        written = node.args[0]
        assert isinstance(written, Node)
        if written.op == "get_attr" and any(user in needed and _reads(user, written) for user in written.users):
            raise UnsupportedModelError(
                f"the buffer {written.target} changes at each call and the outputs depend on it, but a program keeps "
                "no state between its calls: make the model a function of its inputs"
            )
        graph.erase_node(node)


def _needed(graph: Graph, writes: set[Node]) -> set[Node]:
    """The nodes that the outputs are computed from."""
    needed: set[Node] = set()
    for node in reversed(graph.nodes):
        if node not in writes and (node.op == "output" or any(user in needed for user in node.users)):
            needed.add(node)
    return needed


def _reads(user: Node, buffer: Node) -> bool:
    return not (is_call(user, *_SHAPE_READERS) and user.all_input_nodes.count(buffer) == 1 and user.args[0] is buffer)


def _copied(graph_module: GraphModule, node: Node) -> Node | None:
    """What copy(target, source) gives: the source, in the target's shape and type."""
    target, source = node.args[:2]
    if not (has_tensor(target) and has_tensor(source)):
        return None
    value: Node = source  # type: ignore[assignment]
    if value.meta["val"].dtype != target.meta["val"].dtype:  # type: ignore[union-attr]
        value = call(graph_module, aten.to.dtype, value, target.meta["val"].dtype)  # type: ignore[union-attr]
    if shape_of(value) != shape_of(target):  # type: ignore[arg-type]
        value = call(graph_module, aten.expand.default, value, list(shape_of(target)))  # type: ignore[arg-type]
    return value if value is source else keep_module(value, node)


def _joined(graph_module: GraphModule, node: Node) -> Node | None:
    """A tensor with a run of it replaced, put together from what stays before and behind and what is new."""
    named = arguments(node)
    target, source = (named["input"] if "input" in named else named["self"]), named["src"]
    if not (has_tensor(target) and has_tensor(source)) or named.get("step", 1) != 1:
        return None
    shape = shape_of(target)
    axis = named["dim"] % len(shape)
    size = shape[axis]
    if is_call(node, aten.select_scatter.default):
        start = named["index"] % size
        stop = start + 1
        source = call(graph_module, aten.unsqueeze.default, source, axis)
    else:
        start, stop, _ = slice(named["start"], named["end"]).indices(size)
    parts = [call(graph_module, aten.slice.Tensor, target, axis, 0, start)] if start > 0 else []
    if stop > start:
        parts.append(source)
    if stop < size:
        parts.append(call(graph_module, aten.slice.Tensor, target, axis, max(start, stop), size))
    return parts[0] if len(parts) == 1 else keep_module(call(graph_module, aten.cat.default, parts, axis), node)
