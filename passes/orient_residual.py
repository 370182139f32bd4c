"""Brings every residual addition to one form: the stream first, then a linear, or a LayerNorm behind one."""

from torch.fx import GraphModule, Node

from .graph import aten, clean_up, find, is_call, is_constant, shape_of
from .patterns import is_channel_norm, is_stream_sum, is_token_constant, may_be_stream
from .sums import Sum, branches_of, is_branch, is_norm_branch, is_sum, parts_of, read_sum, write_sum


def orient_residual(graph_module: GraphModule) -> GraphModule:
    """Rewrites sums of skips and linears, in any order, scaled or subtracted, as additions of linears to a stream.

    Where there are LayerNorms and no linears (post-norm), it is LayerNorms that are added. Where there is nothing else
    than these, the others are added to the first, as to a stream that begins there. Constant factors and signs
    of a linear or a LayerNorm, one for all channels or one each, become part of it, and so does a constant added to it,
    the same for all tokens. A factor of the skip stays in front of it. Afterwards the stream is computed before the
    linear that is added to it.

    Constant tokens, such as positions behind a LayerNorm or latents, are a stream. Where there are only streams, each
    has its factor: the mean of two of them is a sum of halves.

    before: sub(stream, mul(linear, 0.5)), add(branch, stream), add(stream, linear, alpha=2), lerp(stream, linear, 0.1),
            mul(add(linear, linear), 0.5), mul(add(stream, stream), 0.5)
    after:  add(stream, linear), or add(mul(stream, 0.9), linear), or add(linear, linear),
            or add(mul(stream, 0.5), mul(stream, 0.5))
    """
    seen: set[Node] = set()
    for node in reversed(list(graph_module.graph.nodes)):
        if node in seen or not is_sum(node):
            continue
        found = read_sum(graph_module, node)
        if _is_oriented(graph_module, node):
            continue
        seen.update(parts_of(graph_module, node))
        branches = branches_of(graph_module, found)
        is_alone = len(found.terms) == 1 and not bool(found.constant.any())
        if branches and (not is_alone or _is_output(node)) or not branches and _adds_streams(node, found):
            write_sum(graph_module, node, found)
    clean_up(graph_module)
    _order(graph_module)
    return clean_up(graph_module)


def _is_oriented(graph_module: GraphModule, node: Node) -> bool:
    if not is_call(node, aten.add.Tensor) or node.kwargs.get("alpha", 1) != 1:
        return False
    stream, branch = node.args
    branches = is_branch(graph_module, branch) or is_norm_branch(graph_module, branch)
    return branches and _is_stream(stream, node)


def _adds_streams(node: Node, found: Sum) -> bool:
    """Whether a sum is of several streams, times positive constants, and not yet spelled as one."""
    return (
        not is_stream_sum(node)
        and len(found.terms) > 1
        and not bool(found.constant.any())
        and all(map(may_be_stream, found.terms))
        and all(bool((factor > 0).all()) for factor in found.terms.values())
    )


def _is_output(node: Node) -> bool:
    return all(user.op == "output" for user in node.users)


def _is_stream(value: object, addition: Node) -> bool:
    if not isinstance(value, Node) or is_constant(value):
        return False
    return shape_of(value) == shape_of(addition)


def _order(graph_module: GraphModule) -> None:
    """Puts linears second, and behind what they are added to."""
    position = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for node in find(graph_module, aten.add.Tensor):
        first, second = node.args
        if node.kwargs.get("alpha", 1) != 1 or not is_call(first, aten.linear.default) or not _is_stream(second, node):
            continue
        if not is_call(second, aten.linear.default) or position[first] > position[second]:
            node.args = (second, first)
    for node in find(graph_module, aten.add.Tensor):
        first, second = node.args
        alone = is_call(first, aten.linear.default) or is_channel_norm(first)
        if alone and len(first.users) == 1 and len(node.kwargs) == 0 and is_token_constant(second, node):  # type: ignore
            node.args = (second, first)
    for node in find(graph_module, aten.add.Tensor):
        stream, branch = node.args
        late = isinstance(stream, Node) and isinstance(branch, Node) and position[stream] > position[branch]
        if late and is_call(branch, aten.linear.default) and len(branch.users) == 1:  # type: ignore[union-attr]
            node.prepend(branch)  # type: ignore[arg-type]
