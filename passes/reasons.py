"""Why an operator stays in float, and which module of the user's model it belongs to.

A reason is kept in `node.meta["custom"]`, which torch.export and to_edge hand on to all that they make of a node: where
a decomposition turns one operator into five, all five have the reason of the one.
"""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .codes import is_dequantize, is_quantize
from .layout import is_layout

_CUSTOM = "custom"
_REASON = "packqvit_reason"


class NotLowered(Exception):  # noqa: N818 - a control-flow signal with a reason, not an error
    """An operator has no integer counterpart here; the message is the reason the user reads."""


def set_reason(node: Node, reason: str) -> None:
    """Says why an operator stays in float; a later decision replaces an earlier one."""
    node.meta[_CUSTOM] = {**node.meta.get(_CUSTOM, {}), _REASON: reason}


def reason_of(node: Node) -> str | None:
    """Why an operator stays in float, where a pass decided that."""
    reason = node.meta.get(_CUSTOM, {}).get(_REASON)
    return None if reason is None else str(reason)


def module_path(node: Node) -> str:
    """The module of the user's model that a node came from, e.g. `blocks.0.mlp.fc1`; "" for the model itself."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0]).replace("L['self'].", "").replace("L__self___", "")
    return "" if path == "L['self']" else path


def operator_of(node: Node) -> str:
    """E.g. `aten.softmax`; the name of the node where it calls no operator."""
    packet = getattr(node.target, "overloadpacket", None)
    return node.name if packet is None else str(packet)


def describe(value: Any) -> str:
    """A node as sentences name it: the operator and its module, an input, the output, or a constant."""
    if not isinstance(value, Node):
        return repr(value)
    if value.op == "placeholder":
        return f"the input {value.name}"
    if value.op == "output":
        return "the model's output"
    if value.op == "get_attr":
        return f"the constant {value.target}"
    path = module_path(value)
    if getattr(value.target, "namespace", "") == "packqvit":
        return f"the integer result of {path or 'the model'}"
    return f"{operator_of(value)} ({path})" if path else operator_of(value)


def origin(value: Node) -> Node:
    """The operator, input or constant whose elements a value has, seen through moves and quantisers."""
    while isinstance(value.args[0] if value.args else None, Node) and (
        is_layout(value) or is_quantize(value) or is_dequantize(value)
    ):
        value = value.args[0]  # type: ignore[assignment]
    return value


def read_by(value: Node) -> list[Node]:
    """What computes with a value or gives it out, seen through moves and quantisers."""
    found: dict[Node, None] = {}
    for user in value.users:
        passes_on = is_layout(user) or is_quantize(user) or is_dequantize(user)
        found.update(dict.fromkeys(read_by(user) if passes_on else [user]))
    return list(found)


def listed(nodes: list[Node], most: int = 3) -> str:
    """E.g. `aten.add (blocks.0), aten.mul (blocks.1) and 4 more`; each sentence once."""
    names = list(dict.fromkeys(map(describe, nodes)))
    shown, left = names[:most], len(names) - most
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
