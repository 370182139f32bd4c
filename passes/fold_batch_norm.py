"""Folds BatchNorm into what is in front of it, where nothing else reads that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    add_linear,
    arguments,
    aten,
    call,
    clean_up,
    constant,
    find,
    first_result,
    is_call,
    is_constant,
    is_trainable,
    keep_module,
    linear_parameters,
    replacing,
    reshape,
    shape_of,
)
from .layout import RESHAPES

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)


@dataclass(frozen=True)
class _Affine:
    """x * scale + shift for each channel of axis 1, float64 [C] both."""

    scale: Tensor
    shift: Tensor
    trainable: bool


def fold_batch_norm(graph_module: GraphModule) -> GraphModule:
    """Takes BatchNorm with fixed statistics into the convolution or the linear layer that alone gives its input.

    Where others read that, too, BatchNorm becomes a product and a sum: prepare_pt2e of torchao would fold it all the
    same, and what the others read would change.

    before: batch_norm(conv2d(x, W, b), gamma, beta, mean, variance)
    after:  conv2d(x, W * s, (b - mean) * s + beta), s = gamma / sqrt(variance + eps)

    before: batch_norm(reshape(linear(x, W, b), [-1, C]), ...)
    after:  reshape(linear(x, W * s, (b - mean) * s + beta), [-1, C])
    """
    for node in find(graph_module, aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default):
        normalized = node if is_call(node, aten.batch_norm.default) else first_result(node)
        affine = _affine(graph_module, node)
        if normalized is None or affine is None:
            continue
        with replacing(graph_module, normalized):
            result = _folded(graph_module, node, affine)
            if result is None:
                result = _spelled_out(graph_module, node, affine)
        normalized.replace_all_uses_with(result)
    return clean_up(graph_module)


def _affine(graph_module: GraphModule, node: Node) -> _Affine | None:
    """What a BatchNorm does, or None where it takes statistics of its batch."""
    given = arguments(node)
    statistics = [given["running_mean"], given["running_var"]]
    parameters = [given["weight"], given["bias"]]
    constants = all(map(is_constant, statistics)) and all(p is None or is_constant(p) for p in parameters)
    if given.get("training") or not constants:
        return None
    mean, variance = (constant(graph_module, value).double() for value in statistics)
    gamma, beta = (None if value is None else constant(graph_module, value).double() for value in parameters)
    scale = (variance + given["eps"]).rsqrt() * (1.0 if gamma is None else gamma)
    shift = (0.0 if beta is None else beta) - mean * scale
    return _Affine(scale, shift, is_trainable(graph_module, *parameters))


def _folded(graph_module: GraphModule, node: Node, affine: _Affine) -> Node | None:
    """The result by other weights of what is in front, or None where that is no layer of its own."""
    x: Any = arguments(node)["input"]
    if len(x.users) != 1:
        return None
    if is_call(x, *_CONVOLUTIONS):
        return _convolution(graph_module, x, affine)
    channels = shape_of(x)[-1:]
    while is_call(x, *RESHAPES) and len(x.users) == 1 and shape_of(x.args[0])[-1:] == channels:
        x = x.args[0]
    parameters, shape = linear_parameters(graph_module, x), shape_of(arguments(node)["input"])
    if parameters is None or len(x.users) != 1 or len(shape) != 2:
        return None
    weight, bias = parameters
    new_bias = affine.shift + (0.0 if bias is None else bias.double() * affine.scale)
    new_weight = weight.double() * affine.scale.unsqueeze(1)
    linear = add_linear(graph_module, x, new_weight.to(weight.dtype), new_bias.to(weight.dtype), "normalized")
    return reshape(graph_module, linear, shape)


def _convolution(graph_module: GraphModule, x: Node, affine: _Affine) -> Node | None:
    given = arguments(x)
    weight_node, bias_node = given["weight"], given["bias"]
    if not is_constant(weight_node) or not (bias_node is None or is_constant(bias_node)):
        return None
    weight = constant(graph_module, weight_node)
    bias = 0.0 if bias_node is None else constant(graph_module, bias_node).double() * affine.scale
    new_weight = weight.double() * affine.scale.reshape(-1, *[1] * (weight.dim() - 1))
    trainable = affine.trainable or is_trainable(graph_module, weight_node, bias_node)
    name = weight_node.target
    new = [
        add_constant(graph_module, value.to(weight.dtype), name, trainable)
        for value, name in ((new_weight, f"{name}_normalized"), (affine.shift + bias, f"{name}_shift"))
    ]
    return keep_module(call(graph_module, x.target, x.args[0], *new, *x.args[3:]), x)  # type: ignore[arg-type]


def _spelled_out(graph_module: GraphModule, node: Node, affine: _Affine) -> Node:
    """A product and a sum, channel by channel."""
    x: Any = arguments(node)["input"]
    shape = (-1, *[1] * (len(shape_of(x)) - 2)) if len(shape_of(x)) > 2 else (-1,)
    dtype = x.meta["val"].dtype
    scale, shift = (
        add_constant(graph_module, value.reshape(shape).to(dtype), f"{node.name}_{name}", affine.trainable)
        for value, name in ((affine.scale, "scale"), (affine.shift, "shift"))
    )
    return call(graph_module, aten.add.Tensor, call(graph_module, aten.mul.Tensor, x, scale), shift)
