"""Lets an integer program take an image's bytes instead of its normalised floats."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.errors import PackQViTError

from .graph import call, clean_up, constant, is_call

ops = torch.ops.packqvit


def take_bytes(
    graph_module: GraphModule, mean: Sequence[float], std: Sequence[float], *, channels_last: bool
) -> GraphModule:
    """Replaces the pixel quantiser by one that reads bytes.

    Before: quantize((byte / 255 - mean) / std)   float32 [B, C, H, W]
    After:  pixel_codes(byte)                     uint8 [B, H, W, C] when `channels_last`, else [B, C, H, W]

    Args:
        graph_module: Integer graph; changed in place.
        mean: Per channel, of pixels in [0, 1].
        std: Per channel.
        channels_last: The layout of the bytes.

    Raises:
        PackQViTError: The graph's input is not quantised as pixels, so that its codes are not the bytes.
    """
    _remove_guards(graph_module)
    quantizer = _pixel_quantizer(graph_module)
    image = quantizer.args[0]
    assert isinstance(image, Node)
    _check_exact(graph_module, quantizer, mean, std)
    value = image.meta["val"]
    shape = [value.shape[i] for i in ((0, 2, 3, 1) if channels_last else (0, 1, 2, 3))]
    image.meta["val"] = value.new_empty(shape, dtype=torch.uint8)
    with graph_module.graph.inserting_before(quantizer):
        codes = call(graph_module, ops.pixel_codes.default, image, channels_last)
    codes.meta.update({key: value for key, value in quantizer.meta.items() if key != "val"})
    quantizer.replace_all_uses_with(codes)
    clean_up(graph_module)
    return graph_module


def _remove_guards(graph_module: GraphModule) -> None:
    """Removes torch.export's check that the input is the float image it was exported with."""
    for node in list(graph_module.graph.nodes):
        if node.op == "call_module" and not node.users:
            graph_module.graph.erase_node(node)


def _pixel_quantizer(graph_module: GraphModule) -> Node:
    inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
    users = [user for node in inputs for user in node.users]
    if len(inputs) != 1 or len(users) != 1 or not is_call(users[0], ops.quantize.default):
        raise PackQViTError(
            "a program that takes bytes needs one image as its input, which only the patch embedding reads; "
            f"this model has {len(inputs)} input(s) with {len(users)} reader(s)"
        )
    return users[0]


def _check_exact(graph_module: GraphModule, quantizer: Node, mean: Sequence[float], std: Sequence[float]) -> None:
    """Runs all 256 bytes of every channel through the normalisation and the quantiser that is about to go."""
    byte = torch.arange(256, dtype=torch.float32).reshape(1, 1, 256, 1)
    mean_vector, std_vector = (torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1) for values in (mean, std))
    image = (byte / 255 - mean_vector) / std_vector
    operands = [constant(graph_module, node) for node in quantizer.args[1:3]]  # type: ignore[arg-type]
    codes = ops.quantize(image, *operands, *quantizer.args[3:])
    if not torch.equal(codes, (byte - 128).to(codes.dtype).expand_as(codes)):
        raise PackQViTError(
            "the codes of the image are not its bytes: export with input_normalization=(mean, std), the mean and the "
            "standard deviation that the model's images are normalised with, and let the patch embedding alone "
            "read the image"
        )
