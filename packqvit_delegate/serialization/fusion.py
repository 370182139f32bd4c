"""Finds chains of operators that one node of the plan computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.fx import Graph, Node

from .names import operator_name

VIEWS = (
    "aten::reshape",
    "aten::view",
    "aten::view_copy",
    "aten::_unsafe_view",
    "aten::squeeze_copy",
    "aten::unsqueeze_copy",
)
"""Operators that only change the shape of codes: their result is the same value of the plan."""

Chain = tuple[str, ...]
"""Operators in order, each the first operand of the next, or a view of it."""

Condition = Callable[..., bool]
"""Takes a chain's operators: whether the one node of the plan can compute them."""


def behind_views(node: Node) -> Node:
    """What a node is a view of, or itself."""
    while operator_name(node) in VIEWS and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def find_fusions(graph: Graph, chains: Mapping[Chain, Condition]) -> dict[Node, tuple[Node, ...]]:
    """The chains of a graph whose results in between nothing else reads.

    Args:
        graph: An integer graph.
        chains: `namespace::name` of the operators, at least two each, and which of such chains may be fused.

    Returns:
        For the last node of each chain found, all of its nodes in order, the views among them included. No node is in
        two of them; where two chains want one, the longer gets it.
    """
    found: dict[Node, tuple[Node, ...]] = {}
    taken: set[Node] = set()
    for chain, can_fuse in sorted(chains.items(), key=lambda item: -len(item[0])):
        for node in graph.nodes:
            nodes = _chain_ending_in(node, chain)
            if nodes and taken.isdisjoint(nodes) and can_fuse(*without_views(nodes)):
                found[node] = nodes
                taken.update(nodes)
    return found


def without_views(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The operators among the nodes of a chain."""
    return tuple(node for node in nodes if operator_name(node) not in VIEWS)


def _chain_ending_in(last: Node, chain: Chain) -> tuple[Node, ...]:
    nodes: list[Node] = []
    node = last
    for name in reversed(chain):
        while nodes and operator_name(node) in VIEWS and _is_read_once(node, nodes[-1]):
            nodes.append(node)
            if not isinstance(node.args[0], Node):
                return ()
            node = node.args[0]
        if operator_name(node) != name or (nodes and not _is_read_once(node, nodes[-1])):
            return ()
        nodes.append(node)
        if not isinstance(node.args[0], Node):
            return ()
        node = node.args[0]
    return tuple(reversed(nodes))


def _is_read_once(node: Node, reader: Node) -> bool:
    """Whether a node's result is one operand of the reader, and nothing else's."""
    return len(node.users) == 1 and sum(operand is node for operand in reader.args) == 1
