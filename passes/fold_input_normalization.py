"""Brings the channels of a normalised image to one scale, so that its codes can be the bytes themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.errors import PackQViTError

from .graph import add_constant, aten, call, clean_up, constant, is_call, is_trainable, replacing, shape_of


def pixel_grid(mean: Sequence[float], std: Sequence[float]) -> tuple[float, tuple[float, ...]]:
    """The grid of pixels after `fold_input_normalization`.

    Args:
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.

    Returns:
        The value of one step of the byte, and per channel the value of byte 128.
    """
    scale = 1.0 / (255.0 * std[0])
    return scale, tuple((128.0 / 255.0 - m) / std[0] for m in mean)


def fold_input_normalization(graph_module: GraphModule, std: Sequence[float]) -> GraphModule:
    """Multiplies channel c of the image by std[c] / std[0] and divides the patch projection's weights by it.

    Before: conv2d(image, W)
    After:  conv2d(mul(image, r), W / r), with r = std / std[0]; unchanged when all std are equal

    Args:
        graph_module: Canonical float graph; changed in place.
        std: Standard deviation per input channel.

    Raises:
        PackQViTError: The image has another number of channels.
    """
    for node in list(graph_module.graph.nodes):
        if is_call(node, aten.conv2d.default) and isinstance(node.args[0], Node) and node.args[0].op == "placeholder":
            channels = shape_of(node.args[0])[1]
            if channels != len(std):
                raise PackQViTError(
                    f"input_normalization has {len(std)} channels, but the model takes images of {channels}"
                )
            if any(s != std[0] for s in std):
                _equalize(graph_module, node, torch.tensor([s / std[0] for s in std]))
    return clean_up(graph_module)


def _equalize(graph_module: GraphModule, convolution: Node, ratio: torch.Tensor) -> None:
    image, weight = convolution.args[0], convolution.args[1]
    assert isinstance(image, Node) and isinstance(weight, Node)
    factors = ratio.reshape(1, -1, 1, 1)
    with replacing(graph_module, convolution):
        scaled = call(graph_module, aten.mul.Tensor, image, add_constant(graph_module, factors, "input_ratio"))
        trainable = is_trainable(graph_module, weight)
        folded = add_constant(graph_module, constant(graph_module, weight) / factors, "patch_weight", trainable)
    convolution.update_arg(0, scaled)
    convolution.update_arg(1, folded)
