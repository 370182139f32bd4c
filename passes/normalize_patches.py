"""Spells other operators that cut an input into patches as moves, and their convolutions as those of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    arguments,
    aten,
    call,
    clean_up,
    constant,
    find,
    is_constant,
    is_trainable,
    replacing,
    shape_of,
)
from .graph import reshape as reshaped


def normalize_patches(graph_module: GraphModule) -> GraphModule:
    """Replaces unfold by moves, and convolutions over one or three axes whose kernel is their stride by those over two.

    before: im2col(image [B, C, H, W], kernel, stride = kernel), unfold(x, axis, size, step = size)
    after:  reshape(permute(reshape(image)))

    before: conv3d(video [B, C, T, H, W], W [D, C, t, h, w]), conv1d(signal [B, C, L], W [D, C, l])
    after:  reshape(conv2d(reshape(permute(reshape(video))) [B, C * t, T / t * H, W], W [D, C * t, h, w]))
    """
    for target, rewrite in _RULES.items():
        for node in find(graph_module, target):
            with replacing(graph_module, node):
                result = rewrite(graph_module, node)
            if result is not None:
                node.replace_all_uses_with(result)
    return clean_up(graph_module)


def _im2col(graph_module: GraphModule, node: Node) -> Node | None:
    given = arguments(node)
    kernel = list(given["kernel_size"])
    if list(given["stride"]) != kernel or any(given["padding"]) or set(given["dilation"]) != {1}:
        return None
    image = given["self"]
    if len(shape_of(image)) != 4:
        return None
    for axis, size in ((2, kernel[0]), (3, kernel[1])):
        image = _whole(graph_module, image, axis, size)
    batch, channels, height, width = shape_of(image)
    across, down = width // kernel[1], height // kernel[0]
    cut = reshaped(graph_module, image, [batch, channels, down, kernel[0], across, kernel[1]])
    patches = call(graph_module, aten.permute.default, cut, [0, 1, 3, 5, 2, 4])
    return reshaped(graph_module, patches, shape_of(node))


def _unfold(graph_module: GraphModule, node: Node) -> Node | None:
    given = arguments(node)
    x, size, rank = given["self"], given["size"], len(shape_of(given["self"]))
    if size != given["step"]:
        return None
    axis = given["dimension"] % rank
    whole = _whole(graph_module, x, axis, size)
    shape = list(shape_of(whole))
    cut = reshaped(graph_module, whole, [*shape[:axis], shape[axis] // size, size, *shape[axis + 1 :]])
    order = [i for i in range(rank + 1) if i != axis + 1]
    return call(graph_module, aten.permute.default, cut, [*order, axis + 1])


def _whole(graph_module: GraphModule, x: Node, axis: int, size: int) -> Node:
    """What is left of an axis when no part of a patch is."""
    there = shape_of(x)[axis]
    return x if there % size == 0 else call(graph_module, aten.slice.Tensor, x, axis, 0, there // size * size)


def _convolution(graph_module: GraphModule, node: Node) -> Node | None:
    """A conv1d or conv3d as a conv2d: of height 1, or with the frames of a patch as channels."""
    given = arguments(node)
    x, weight, bias = given["input"], given["weight"], given["bias"]
    axes = len(shape_of(weight)) - 2
    kernel = list(shape_of(weight)[2:])
    sizes = {name: list(given[name]) * (axes // len(given[name])) for name in ("stride", "padding", "dilation")}
    plain = sizes == {"stride": kernel, "padding": [0] * axes, "dilation": [1] * axes} and given["groups"] == 1
    if not plain or not is_constant(weight) or len(shape_of(x)) != axes + 2:
        return None
    kernel = [1] * (3 - axes) + kernel if axes == 1 else kernel
    batch, channels = shape_of(x)[:2]
    frames, height, width = [1] * (3 - axes) + list(shape_of(x)[2:])
    depth, *flat = kernel
    if frames % depth or (frames > depth and height % flat[0]):
        return None  # patches of different frames would not be one below the other
    steps = frames // depth
    video = reshaped(graph_module, x, [batch, channels, steps, depth, height, width])
    if steps > 1:
        video = call(graph_module, aten.permute.default, video, [0, 1, 3, 2, 4, 5])
    image = reshaped(graph_module, video, [batch, channels * depth, steps * height, width])
    value = constant(graph_module, weight)
    features = value.shape[0]
    trainable = is_trainable(graph_module, weight)
    kernels = add_constant(
        graph_module, value.reshape(features, channels * depth, *flat), f"{weight.target}_flat", trainable
    )
    result = call(graph_module, aten.conv2d.default, image, kernels, bias, flat, [0, 0])
    return reshaped(graph_module, result, shape_of(node))


_RULES: dict[Any, Callable[[GraphModule, Node], Node | None]] = {
    aten.im2col.default: _im2col,
    aten.unfold.default: _unfold,
    aten.conv1d.default: _convolution,
    aten.conv3d.default: _convolution,
}
