"""Finds chains of operators that one node of the plan computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch.fx import Graph, Node

from .names import operator_name

Chain = tuple[str, ...]
"""Operators in order, each the first operand of the next."""

Condition = Callable[..., bool]
"""Takes a chain's nodes: whether the one node of the plan can compute them."""


def find_fusions(graph: Graph, chains: Mapping[Chain, Condition]) -> dict[Node, tuple[Node, ...]]:
    """The chains of a graph whose results in between nothing else reads.

    Args:
        graph: An integer graph.
        chains: `namespace::name` of the operators, at least two each, and which of such chains may be fused.

    Returns:
        For the last node of each chain found, all of its nodes in order. No node is in two of them.
    """
    found: dict[Node, tuple[Node, ...]] = {}
    taken: set[Node] = set()
    for chain, can_fuse in chains.items():
        for node in graph.nodes:
            nodes = _chain_ending_in(node, chain)
            if nodes and taken.isdisjoint(nodes) and can_fuse(*nodes):
                found[node] = nodes
                taken.update(nodes)
    return found


def _chain_ending_in(last: Node, chain: Chain) -> tuple[Node, ...]:
    nodes = [last]
    for name in reversed(chain):
        node = nodes[-1]
        if operator_name(node) != name or (node is not last and len(node.users) != 1):
            return ()
        source = node.args[0]
        if not isinstance(source, Node):
            return ()
        nodes.append(source)
    return tuple(reversed(nodes[:-1]))
