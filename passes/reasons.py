"""Why an operator stays in float, and which module of the user's model it belongs to.

A reason is kept in `node.meta["custom"]`, which torch.export and to_edge hand on to all that they make of a node: where
a decomposition turns one operator into five, all five have the reason of the one.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx import Node

from .codes import is_dequantize, is_quantize
from .graph import is_part
from .layout import is_layout

_CUSTOM = "custom"
_REASON = "packqvit_reason"
_CAUSE = "packqvit_cause"

_ENDS = ("quantize", "dequantize")
"""Of the delegate's operators: between its codes and float values."""


class NotLowered(Exception):  # noqa: N818 - a control-flow signal with a reason, not an error
    """An operator has no integer counterpart here; the message is the reason the user reads.

    Attributes:
        cause: The operator because of which it has none, whose own reason is to be told as well.
    """

    def __init__(self, reason: str = "", cause: Node | None = None) -> None:
        """Says why.

        Args:
            reason: Empty where the kind of the operator says it all (passes/kinds.py).
            cause: See above.
        """
        super().__init__(reason)
        self.cause = cause


def set_reason(node: Node, reason: str) -> None:
    """Says why an operator stays in float; a later decision replaces an earlier one."""
    node.meta[_CUSTOM] = {**node.meta.get(_CUSTOM, {}), _REASON: reason}


def reason_of(node: Node) -> str | None:
    """Why an operator stays in float, where a pass decided that."""
    reason = node.meta.get(_CUSTOM, {}).get(_REASON)
    return None if reason is None else str(reason)


def name_cause(node: Node, cause: Node | None) -> None:
    """Says because of which other operator one stays in float; by its name, which outlives copies of the graph."""
    custom = {key: value for key, value in node.meta.get(_CUSTOM, {}).items() if key != _CAUSE}
    node.meta[_CUSTOM] = custom if cause is None else {**custom, _CAUSE: cause.name}


def take_cause(node: Node) -> str | None:
    """The name of the operator because of which one stays in float, which is forgotten then."""
    cause = node.meta.get(_CUSTOM, {}).get(_CAUSE)
    if cause is not None:
        name_cause(node, None)
    return cause


def is_integer(node: Node) -> bool:
    """Whether a node calls an operator of the delegate that computes with codes."""
    return _opname(node) not in ("", *_ENDS)


def stays(node: Node) -> bool:
    """Whether a node of a lowered graph calls an operator that is none of the delegate's."""
    if node.op != "call_function" or is_part(node) or _opname(node):
        return False
    value = node.meta.get("val")
    moves_codes = is_layout(node) and isinstance(value, Tensor) and not value.is_floating_point()
    return not (moves_codes or is_quantize(node) or is_dequantize(node))


def _opname(node: Node) -> str:
    """E.g. `linear_add`; "" for an operator that is none of the delegate's."""
    return str(node.target._opname) if getattr(node.target, "namespace", "") == "packqvit" else ""  # type: ignore[union-attr]


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
    if is_part(value):
        return describe(value.args[0])
    path = module_path(value)
    if _opname(value):
        name = f"the integer {_opname(value).removesuffix('_accumulate')}"
        return f"{name} ({path})" if path else name
    return f"{operator_of(value)} ({path})" if path else operator_of(value)


def origin(value: Node) -> Node:
    """The operator, input or constant whose elements a value has, seen through moves and quantisers."""
    while isinstance(value.args[0] if value.args else None, Node) and _passes_on(value):
        value = value.args[0]  # type: ignore[assignment]
    return value


def _passes_on(node: Node) -> bool:
    """Whether a node only moves, quantises or dequantises, or is one of an operator's results."""
    return is_layout(node) or is_part(node) or is_quantize(node) or is_dequantize(node) or _opname(node) in _ENDS


def read_by(value: Node) -> list[Node]:
    """What computes with a value or gives it out, seen through moves and quantisers."""
    found: dict[Node, None] = {}
    for user in value.users:
        found.update(dict.fromkeys(read_by(user) if _passes_on(user) else [user]))
    return list(found)


def listed(nodes: list[Node], most: int = 3) -> str:
    """E.g. `aten.add (blocks.0), aten.mul (blocks.1) and 4 more`; each sentence once."""
    names = list(dict.fromkeys(map(describe, nodes)))
    shown, left = names[:most], len(names) - most
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)
