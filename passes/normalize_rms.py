"""Recognises RMSNorm and L2 normalisation by what they compute, however they are spelled."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .evaluate import evaluate
from .graph import (
    arguments,
    aten,
    call,
    clean_up,
    find,
    has_tensor,
    is_call,
    is_constant,
    replacing,
    scalar_value,
    shape_of,
)

_REDUCTIONS = {aten.sum.dim_IntList, aten.mean.dim, aten.linalg_vector_norm.default, aten.norm.ScalarOpt_dim}
_REPEATS = {aten.expand.default, aten.expand_as.default}
"""What is repeated along the channels broadcasts."""
_POINTWISE = {
    aten.add.Tensor,
    aten.add.Scalar,
    aten.mul.Tensor,
    aten.mul.Scalar,
    aten.div.Tensor,
    aten.div.Scalar,
    aten.pow.Tensor_Scalar,
    aten.square.default,
    aten.sqrt.default,
    aten.rsqrt.default,
    aten.reciprocal.default,
    aten.clamp_min.default,
    aten.clamp.default,
    aten.maximum.default,
}
_MAGNITUDES = (1e-3, 1e-1, 1.0, 1e1, 1e3)
_LARGE, _TINY = 1e9, 1e-30
_TOLERANCE = 1e-5


def normalize_rms(graph_module: GraphModule) -> GraphModule:
    """Replaces x over its length, or over the root of its mean square, by rms_norm times a number.

    before: x -> linalg_vector_norm -> clamp_min -> expand -> div(x, .)
    after:  mul(rms_norm(x, [d], eps), 1 / sqrt(d))

    before: x -> pow 2 -> mean -> add eps -> rsqrt -> mul(x, .) -> mul(weight, .)
    after:  rms_norm(x, [d], weight, eps)
    """
    for node in reversed(list(graph_module.graph.nodes)):
        region = _region(graph_module, node)
        if region is None:
            continue
        source, nodes = region
        found = _factor_and_epsilon(graph_module, source, nodes)
        if found is None:
            continue
        factor, epsilon = found
        with replacing(graph_module, node):
            result = call(graph_module, aten.rms_norm.default, source, [shape_of(node)[-1]], None, epsilon)
            if abs(factor - 1) > _TOLERANCE:
                result = call(graph_module, aten.mul.Tensor, result, factor)
        node.replace_all_uses_with(result)
    for node in find(graph_module, aten.mul.Tensor):
        _take_weight(graph_module, node)
    return clean_up(graph_module)


def _take_weight(graph_module: GraphModule, product: Node) -> None:
    """Lets an RMSNorm without a weight have the vector [d] that its result is multiplied with."""
    for norm, weight in (product.args, product.args[::-1]):
        if not is_call(norm, aten.rms_norm.default) or not is_constant(weight) or len(norm.users) != 1:  # type: ignore
            continue
        given = arguments(norm)  # type: ignore[arg-type]
        shape = given["normalized_shape"]
        if given["weight"] is None and list(shape_of(weight)) == list(shape):  # type: ignore[arg-type]
            with replacing(graph_module, product):
                result = call(graph_module, aten.rms_norm.default, given["input"], shape, weight, given["eps"])
            product.replace_all_uses_with(result)


def _region(graph_module: GraphModule, sink: Node) -> tuple[Node, list[Node]] | None:
    """The one tensor that `sink` is computed from, over a reduction of its last axis, and the nodes between them."""
    if not is_call(sink, aten.mul.Tensor, aten.div.Tensor, aten.mul.Scalar, aten.div.Scalar) or not has_tensor(sink):
        return None
    region: set[Node] = set()
    sources: set[Node] = set()
    pending = [sink]
    while pending:
        node = pending.pop()
        if node in region or scalar_value(graph_module, node) is not None:
            continue
        if is_call(node, *_POINTWISE, *_REPEATS) or _reduces_channels(node):
            region.add(node)
            pending.extend(node.all_input_nodes)
        else:
            sources.add(node)
        if len(sources) > 1:
            return None
    if len(sources) != 1 or not any(is_call(node, *_REDUCTIONS) for node in region):
        return None
    (source,) = sources
    if is_constant(source) or not has_tensor(source) or shape_of(source) != shape_of(sink) or shape_of(sink)[-1] < 2:
        return None
    return source, [node for node in graph_module.graph.nodes if node in region]


def _reduces_channels(node: Node) -> bool:
    """Whether a node sums over the last axis and keeps it."""
    return is_call(node, *_REDUCTIONS) and shape_of(node) == (*shape_of(node.args[0])[:-1], 1)  # type: ignore[arg-type]


def _factor_and_epsilon(graph_module: GraphModule, source: Node, nodes: list[Node]) -> tuple[float, float] | None:
    """The numbers c and eps of c x / sqrt(mean(x^2) + eps), where that is what the nodes compute; else None."""
    rank, channels = len(shape_of(source)), shape_of(source)[-1]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, *[1] * (rank - 2), channels, generator=generator, dtype=torch.float64)
    large = (evaluate(graph_module, source, nodes, rows * _LARGE, _REPEATS) / _normalized(rows, 0.0)).flatten()
    tiny = (evaluate(graph_module, source, nodes, rows * _TINY, _REPEATS) / (rows * _TINY)).flatten()
    factor, slope = float(large[0]), float(tiny[0])
    if not (math.isfinite(factor) and math.isfinite(slope) and factor != 0 and slope != 0):
        return None
    epsilon = (factor / slope) ** 2
    for magnitude in _MAGNITUDES:
        x = rows * magnitude
        expected = factor * _normalized(x, epsilon)
        if not torch.allclose(evaluate(graph_module, source, nodes, x, _REPEATS), expected, rtol=_TOLERANCE, atol=0):
            return None
    return factor, epsilon


def _normalized(x: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt()
