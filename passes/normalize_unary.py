"""Recognises GELU and SiLU by what they compute, however they are spelled."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional

from .evaluate import evaluate
from .graph import aten, call, clean_up, has_tensor, keep_module, scalar_value, shape_of

_POINTWISE = {
    aten.add.Tensor,
    aten.add.Scalar,
    aten.sub.Tensor,
    aten.sub.Scalar,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.neg.default,
    aten.erf.default,
    aten.tanh.default,
    aten.sigmoid.default,
    aten.exp.default,
    aten.reciprocal.default,
    aten.pow.Tensor_Scalar,
    aten.square.default,
}
_CANDIDATES: list[tuple[Callable[..., object], dict[str, str], Callable[[Tensor], Tensor]]] = [
    (aten.gelu.default, {}, functional.gelu),
    (aten.gelu.default, {"approximate": "tanh"}, lambda x: functional.gelu(x, approximate="tanh")),
    (aten.silu.default, {}, functional.silu),
]
# GELU and its tanh form differ by 5e-4; constants written with seven digits by less than 1e-6.
_TOLERANCE = 1e-5


def normalize_unary(graph_module: GraphModule) -> GraphModule:
    """Replaces a spelled-out GELU (erf or tanh form) or SiLU by the operator; other functions stay.

    before: x -> div sqrt(2) -> erf -> add 1 -> mul x -> mul 0.5
    after:  x -> gelu
    """
    grid = torch.linspace(-10, 10, 2001, dtype=torch.float64)
    for node in reversed(list(graph_module.graph.nodes)):
        region = _region(graph_module, node)
        if region is None:
            continue
        source, nodes = region
        result = evaluate(graph_module, source, nodes, grid)
        for target, kwargs, function in _CANDIDATES:
            if torch.allclose(result, function(grid), rtol=0, atol=_TOLERANCE):
                with graph_module.graph.inserting_before(node):
                    function_node = keep_module(call(graph_module, target, source, **kwargs), node)
                    node.replace_all_uses_with(function_node)
                break
    return clean_up(graph_module)


def _region(graph_module: GraphModule, sink: Node) -> tuple[Node, list[Node]] | None:
    """The one tensor that `sink` is a pointwise function of, and the nodes between them in graph order."""
    region, sources, pending = set(), set(), [sink]
    while pending:
        node = pending.pop()
        if node in region or scalar_value(graph_module, node) is not None:
            continue
        if node.op == "call_function" and node.target in _POINTWISE and shape_of(node) == shape_of(sink):
            region.add(node)
            pending.extend(node.all_input_nodes)
        else:
            sources.add(node)
        if len(sources) > 1:
            return None
    if len(region) < 2 or len(sources) != 1:
        return None
    source = sources.pop()
    if not has_tensor(source) or shape_of(source) != shape_of(sink):
        return None
    return source, [node for node in graph_module.graph.nodes if node in region]
