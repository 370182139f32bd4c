"""Names of the operators that the nodes of a graph call."""

from __future__ import annotations

from torch.fx import Node


def operator_name(node: Node) -> str:
    """`namespace::name` of the operator that a node calls, in the ATen or the edge dialect; "" for other nodes."""
    schema = getattr(node.target, "_schema", None)
    return "" if node.op != "call_function" or schema is None else str(schema.name)
