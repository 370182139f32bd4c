"""What a model has in the place of an attention, for the refusal of one that has none."""

from __future__ import annotations

from collections import Counter

from torch.fx import GraphModule, Node

from .graph import aten, find
from .layout import is_layout
from .reasons import module_path, operator_of, reason_of

_MOST = 3


def describe_candidates(graph_module: GraphModule) -> str:
    """Why the attentions of a canonical graph are not recognised, the first few by their modules.

    Where there is nothing like an attention, the operators that there are most of are named instead.
    """
    softmaxes = (aten.softmax.int, aten._softmax.default, aten.scaled_dot_product_attention.default)
    found = find(graph_module, *softmaxes)
    if not found:
        return f"there is no softmax and no scaled_dot_product_attention in it, but {_operators(graph_module)}"
    modules: dict[str, list[Node]] = {}
    for node in found:
        modules.setdefault(reason_of(node) or "it is not looked at, see the log", []).append(node)
    sentences = [f"{_places(nodes)}: {reason}" for reason, nodes in list(modules.items())[:_MOST]]
    left = sum(map(len, list(modules.values())[_MOST:]))
    sentences += [f"{left} more for other reasons"] if left else []
    return f"{len(found)} are not recognised; " + "; ".join(sentences)


def _places(nodes: list[Node]) -> str:
    first = f"{operator_of(nodes[0])} in {module_path(nodes[0]) or 'the model itself'}"
    return first if len(nodes) == 1 else f"{first} and {len(nodes) - 1} more"


def _operators(graph_module: GraphModule) -> str:
    counts = Counter(
        operator_of(node) for node in graph_module.graph.nodes if node.op == "call_function" and not is_layout(node)
    )
    return ", ".join(f"{count} {name}" for name, count in counts.most_common(_MOST)) or "no operator at all"
