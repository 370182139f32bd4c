"""Brings the channels of a normalised image to one scale, so that its codes can be the bytes themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.errors import PackQViTError

from .graph import add_constant, aten, call, clean_up, constant, has_tensor, is_call, is_trainable, shape_of
from .patterns import match_embedding

logger = logging.getLogger(__name__)

PIXELS = "packqvit_pixels"
"""Key in the meta of a graph, once its images were looked for, and of the nodes that hold normalised pixels."""


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

    Only images that a patch embedding alone reads: what else reads an image, or what other convolutions read, need not
    be normalised pixels. `PIXELS` in a node's meta says that its codes can be bytes.

    Args:
        graph_module: Canonical float graph; changed in place, once.
        std: Standard deviation per input channel.

    Raises:
        PackQViTError: The image has another number of channels.
    """
    if PIXELS in graph_module.meta:
        return graph_module
    graph_module.meta[PIXELS] = True
    convolutions = [node for node in graph_module.graph.nodes if _reads_image_alone(node)]
    fitting = [node for node in convolutions if shape_of(node.args[0])[1] == len(std)]
    if convolutions and not fitting:
        channels = shape_of(convolutions[0].args[0])[1]
        raise PackQViTError(f"input_normalization has {len(std)} channels, but the model takes images of {channels}")
    for convolution in fitting:
        image = convolution.args[0]
        if any(s != std[0] for s in std):
            image = _equalize(graph_module, convolution, torch.tensor([s / std[0] for s in std]))
        image.meta[PIXELS] = True
    if not convolutions:
        logger.warning(
            "input_normalization is not used: no patch embedding (a convolution whose kernel is its stride, whose "
            "outputs become tokens) is the only reader of an input; the range of the input is calibrated instead"
        )
    return clean_up(graph_module)


def _reads_image_alone(node: Node) -> bool:
    """Whether a node is the convolution of a patch embedding that reads an input of the model, and nobody else does."""
    if not is_call(node, aten.conv2d.default) or not isinstance(node.args[0], Node):
        return False
    image = node.args[0]
    if image.op != "placeholder" or not has_tensor(image) or len(shape_of(image)) != 4:
        return False
    readers = [user for user in image.users if user.op != "call_module" or user.users]  # not torch.export's guards
    return readers == [node] and node.all_input_nodes.count(image) == 1 and match_embedding(node) is not None


def _equalize(graph_module: GraphModule, convolution: Node, ratio: torch.Tensor) -> Node:
    image, weight = convolution.args[0], convolution.args[1]
    assert isinstance(image, Node) and isinstance(weight, Node)
    factors = ratio.reshape(1, -1, 1, 1)
    with graph_module.graph.inserting_before(convolution):
        scaled = call(graph_module, aten.mul.Tensor, image, add_constant(graph_module, factors, "input_ratio"))
        trainable = is_trainable(graph_module, weight)
        folded = add_constant(graph_module, constant(graph_module, weight) / factors, "patch_weight", trainable)
    convolution.update_arg(0, scaled)
    convolution.update_arg(1, folded)
    return scaled
