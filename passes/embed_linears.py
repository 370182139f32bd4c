"""Linears that make tokens of an input's patches, however these are cut, become convolutions."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .affine import read_affine
from .graph import (
    add_constant,
    aten,
    call,
    clean_up,
    find,
    has_tensor,
    is_call,
    is_constant,
    is_trainable,
    linear_parameters,
    replacing,
    reshape,
    shape_of,
)
from .layout import NOTHING, index_map, is_layout, trace


def embed_linears(graph_module: GraphModule) -> GraphModule:
    """Replaces a linear that reads patches of an input by the convolution whose kernel is its stride.

    Patches cut by reshape and permute, by unfold, or that an input [B, N, K] already is, whose rows are then an image
    [B, 1, N, K] of patches 1 x K. Only linears behind which an embedding goes on, with positions or prefix tokens, and
    those that read an image: rows of an input are read by other linears as they are.

    before: linear(reshape(permute(reshape(image [B, C, H, W]))), W [D, K])
    after:  reshape(transpose(reshape(conv2d(image, W' [D, C, h, w], stride=[h, w]))))
    """
    for node in find(graph_module, aten.linear.default):
        parameters = linear_parameters(graph_module, node)
        if parameters is not None:
            _embed(graph_module, node, *parameters)
    return clean_up(graph_module)


def _embed(graph_module: GraphModule, linear: Node, weight: Tensor, bias: Tensor | None) -> None:
    value = linear.args[0]
    assert isinstance(value, Node)
    source, chain = trace(value)
    if not has_tensor(source) or read_affine(graph_module, source).source.op != "placeholder":
        return
    index = index_map(source, chain)
    if not _goes_on(linear) and (len(shape_of(source)) < 4 or index.shape[-1] == shape_of(source)[-1]):
        return
    patches = Patches.of(index, shape_of(source)[0], math.prod(shape_of(source)[1:]))
    if patches is None:
        return
    channels, height, width = patches.image
    batch, features = shape_of(source)[0], weight.shape[0]
    kernel = [channels, *patches.kernel]
    ordered = weight[:, patches.features].reshape(features, *kernel)
    trainable = is_trainable(graph_module, *linear.args)
    with replacing(graph_module, linear):
        image = reshape(graph_module, source, [batch, channels, height, width])
        constants = [add_constant(graph_module, ordered.contiguous(), "patch_weight", trainable)]
        constants += [add_constant(graph_module, bias, "patch_bias", trainable)] if bias is not None else []
        operands = (*constants, None)[:2]
        stride = list(patches.kernel)
        node = call(graph_module, aten.conv2d.default, image, *operands, stride, [0, 0])
        node = reshape(graph_module, node, [batch, features, math.prod(shape_of(node)[2:])])
        node = call(graph_module, aten.transpose.int, node, 1, 2)
        if not torch.equal(patches.order, torch.arange(len(patches.order))):
            order = add_constant(graph_module, patches.order, "token_order")
            node = call(graph_module, aten.index_select.default, node, 1, order)
        node = reshape(graph_module, node, shape_of(linear))
    linear.replace_all_uses_with(node)


@dataclasses.dataclass(frozen=True)
class Patches:
    """How the rows of a linear's input are patches of an image.

    Attributes:
        image: Channels, height and width by which the memory of one sample is an image.
        kernel: Height and width of a patch.
        features: int64 [K], in the order (channel, row, column) of a patch, which feature of a row it is.
        order: int64 [N], the patch that each row is, counted row by row through the image.
    """

    image: tuple[int, int, int]
    kernel: tuple[int, int]
    features: Tensor
    order: Tensor

    @classmethod
    def of(cls, index: Tensor, batch: int, size: int) -> Patches | None:
        """Reads them off the map [..., K] from rows to the elements of `batch` samples of `size`; None: no patches."""
        if bool((index == NOTHING).any()) or math.prod(index.shape[:-1]) % batch:
            return None
        rows = index.reshape(batch, -1, index.shape[-1])
        starts = rows[0].min(1).values
        within = rows[0, 0] - starts[0]
        samples = torch.arange(batch).reshape(-1, 1, 1) * size
        if not torch.equal(rows, samples + starts[:, None] + within):
            return None
        found = _box(within.sort().values, size)
        if found is None:
            return None
        image, kernel = found
        down, right = starts // image[2], starts % image[2]
        inside = (down + kernel[0] <= image[1]) & (right + kernel[1] <= image[2])
        if not bool((inside & (down % kernel[0] == 0) & (right % kernel[1] == 0)).all()):
            return None
        order = down // kernel[0] * (image[2] // kernel[1]) + right // kernel[1]
        return cls(image, kernel, within.argsort(), order) if len(order.unique()) == len(order) else None


def _box(within: Tensor, size: int) -> tuple[tuple[int, int, int], tuple[int, int]] | None:
    """Image and kernel of a patch whose elements are `within` its memory, int64 [K], sorted; None: it is no box."""
    count = len(within)
    columns = _run(within, 1)
    width = int(within[columns]) if columns < count else count
    rows = _run(within[::columns], width)
    if not width or size % width:
        return None
    plane = int(within[rows * columns]) if rows * columns < count else size
    channels = count // (rows * columns)
    if channels * plane != size or plane % width:
        return None
    places = [torch.arange(channels) * plane, torch.arange(rows) * width, torch.arange(columns)]
    box = (places[0][:, None, None] + places[1][:, None] + places[2]).flatten()
    return ((channels, plane // width, width), (rows, columns)) if torch.equal(box, within) else None


def _run(places: Tensor, step: int) -> int:
    """How many of some places are `step` apart, from the first one on."""
    same = places == places[0] + step * torch.arange(len(places))
    return len(places) if bool(same.all()) else int(same.int().argmin())


def _goes_on(linear: Node) -> bool:
    """Whether constants, one for each token, are added to a linear's output, or put beside its tokens."""
    waiting, shape = [linear], shape_of(linear)
    while waiting:
        for user in waiting.pop().users:
            if is_layout(user):
                waiting.append(user)
            elif is_call(user, aten.add.Tensor, aten.cat.default):
                joins = is_call(user, aten.cat.default)
                operands: Any = user.args[0] if joins else user.args
                sizes = [math.prod(shape_of(item)) for item in operands if is_constant(item)]
                return joins and bool(sizes) or any(size > shape[-1] for size in sizes)
    return False
