"""Makes what scales and shifts the channels of an image part of the patch embedding that reads it."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from .affine import read_affine, varying_axes
from .fold_input_normalization import PIXELS
from .graph import add_constant, aten, clean_up, constant, find, is_constant, is_trainable
from .patterns import is_patch_projection


def fold_affine_input(graph_module: GraphModule) -> GraphModule:
    """Folds the normalisation of pixels inside a model into its patch projection: exact, as nothing is padded.

    before: conv2d(div(sub(image, mean), std), W, b)
    after:  conv2d(image, W / std, b - sum(W * mean / std))
    """
    for convolution in find(graph_module, aten.conv2d.default):
        if is_patch_projection(convolution) and is_constant(convolution.args[1]):
            _fold(graph_module, convolution)
    return clean_up(graph_module)


def _fold(graph_module: GraphModule, convolution: Node) -> None:
    image, weight_node = convolution.args[:2]
    assert isinstance(image, Node) and isinstance(weight_node, Node)
    bias_node = convolution.args[2] if len(convolution.args) > 2 else None
    if PIXELS in image.meta:  # passes/fold_input_normalization.py scales it so that its codes are bytes
        return
    found = read_affine(graph_module, image)
    if found.source is image or varying_axes(found.factor, found.offset) not in ((0, 0), (1, 2)):
        return
    if bias_node is not None and not is_constant(bias_node):
        return
    old = constant(graph_module, weight_node)
    weight = old.double() * found.factor
    bias = (old.double() * found.offset).sum((1, 2, 3))
    if bias_node is not None:
        bias = bias + constant(graph_module, bias_node).double()  # type: ignore[arg-type]
    trainable = is_trainable(graph_module, weight_node, bias_node)
    with graph_module.graph.inserting_before(convolution):
        new = [add_constant(graph_module, value.to(old.dtype), name, trainable) for value, name in _named(weight, bias)]
    convolution.args = (found.source, *new, *convolution.args[3:])


def _named(weight: torch.Tensor, bias: torch.Tensor) -> list[tuple[torch.Tensor, str]]:
    return [(weight, "patch_weight"), (bias, "patch_bias")]
