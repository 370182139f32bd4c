"""The float weights of an operator as they were before they were rounded, for where it stays in float after all."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import constant, is_constant

_KEY = "packqvit_original"


def keep_original(graph_module: GraphModule, node: Node) -> None:
    """Remembers the weight and the bias of a linear or a convolution.

    Args:
        graph_module: Holds them, as float constants.
        node: Tells them in its `meta`, which convert_pt2e and copies of the graph hand on.
    """
    weight, bias = [*node.args[1:3], None][:2]
    assert isinstance(weight, Node)
    node.meta[_KEY] = constant(graph_module, weight), _tensor(graph_module, bias)


def forget_original(node: Node) -> None:
    """Forgets them, where training went on from the rounded ones."""
    node.meta.pop(_KEY, None)


def original_of(node: Node) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias before rounding; None where nobody remembers them."""
    return node.meta.get(_KEY)


def _tensor(graph_module: GraphModule, bias: object) -> Tensor | None:
    return constant(graph_module, bias) if isinstance(bias, Node) and is_constant(bias) else None
