"""For each operator, where the images stand in its result: only where it treats each image alone."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from .image_axis import ALONG, Call, ImageAxis
from .passes.graph import aten
from .passes.layout import COPIES, LISTS, PARTS, PERMUTES, RESHAPES, permutation

Rule = Callable[[Call], ImageAxis]
_RULES: dict[Any, Rule] = {}


def place_of(call: Call) -> ImageAxis:
    """Where the images stand in the result of a call that reads some.

    Raises:
        Mixed: The operator mixes them, or is not known.
    """
    target: Any = call.node.target
    rule = _RULES.get(target)
    if rule is None and isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags:
        rule = _pointwise
    if rule is None:
        raise call.mixed("is not known to treat images alone")
    if any(isinstance(value, Node) and call.places[value] for value in call.node.kwargs.values()):
        raise call.mixed("reads images by a keyword")
    return rule(call)


def _rule(*targets: Any) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(targets, rule))
        return rule

    return register


_packqvit = torch.ops.packqvit


# What keeps the shape, or broadcasts.


def _pointwise(call: Call) -> ImageAxis:
    return call.aligned([(i, operand) for i, operand in enumerate(call.node.args) if isinstance(operand, Node)])


@_rule(
    *COPIES,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.to.dtype,
    aten.to.device,
    aten.to.dtype_layout,
    aten._to_copy.default,
    aten.hardswish.default,
    aten.log_sigmoid.default,
    _packqvit.activation.default,
    _packqvit.function.default,
    _packqvit.lookup_table.default,
)
def _same_shape(call: Call) -> ImageAxis:
    return call.the(call.node.args[0])


@_rule(aten.expand.default)
def _expand(call: Call) -> ImageAxis:
    place = call.aligned([(0, call.node.args[0])])  # type: ignore[list-item]
    call.spells(1, place)
    return place


@_rule(aten.repeat.default)
def _repeat(call: Call) -> ImageAxis:
    x: Any = call.node.args[0]
    place = call.the(x)
    place = place.moved(place.axis + len(call.shape) - call.rank(x))
    copies: Any = call.node.args[1]
    return dataclasses.replace(place, before=place.before * copies[place.axis])


# What moves elements.


@_rule(*RESHAPES)
def _reshape(call: Call) -> ImageAxis:
    x: Any = call.node.args[0]
    place = _contained(call, call.the(x), call.shape_of(x))
    if call.node.target in (aten.reshape.default, aten.view.default, aten._unsafe_view.default):
        call.spells(1, place)
    return place


def _contained(call: Call, place: ImageAxis, shape: tuple[int, ...]) -> ImageAxis:
    """The axis of the result that holds the images: what is in front of them stays in front of them."""
    before = math.prod(shape[: place.axis]) * place.before
    found = []
    for axis, size in enumerate(call.shape):
        outside = math.prod(call.shape[:axis])
        runs = before // outside if outside else 0
        if outside and runs * outside == before and runs and size % (runs * call.images) == 0:
            found.append(ImageAxis(axis, runs, size // (runs * call.images)))
    if not found:
        raise call.mixed("cuts images into parts of different ones")
    # Any of them is right. Best is an axis of images alone, worst that of the channels, which many operators mix.
    last = len(call.shape) - 1
    return min(found, key=lambda place: (place.before * place.entries > 1, place.axis == last, place.before))


@_rule(*PERMUTES)
def _permute(call: Call) -> ImageAxis:
    place = call.the(call.node.args[0])
    return place.moved(permutation(call.node).index(place.axis))


@_rule(aten.select.int)
def _select(call: Call) -> ImageAxis:
    return _without(call, [call.named()["dim"]])


@_rule(aten.unbind.int)
def _unbind(call: Call) -> ImageAxis:
    return _without(call, [call.named()["dim"]])


def _without(call: Call, axes: Sequence[int], keep: bool = False) -> ImageAxis:
    """The result of an operator that removes, or mixes, some axes."""
    x: Any = call.node.args[0]
    place = call.alone(x, axes)
    gone = 0 if keep else sum(axis % call.rank(x) < place.axis for axis in set(axes))
    return place.moved(place.axis - gone)


@_rule(
    *(LISTS - {aten.unbind.int}),
    *(PARTS - {aten.select.int}),
    aten.index_select.default,
    aten.cumsum.default,
    aten.sort.default,
    aten.argsort.default,
    aten.topk.default,
    aten.glu.default,
    aten.softmax.int,
    aten._softmax.default,
    aten.log_softmax.int,
    aten._log_softmax.default,
)
def _along(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], [call.named()["dim"]])  # type: ignore[arg-type]


@_rule(aten.gather.default)
def _gather(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (2, call.node.args[2])]), call.named()["dim"])  # type: ignore


def _not_along(call: Call, place: ImageAxis, axis: int) -> ImageAxis:
    if place.axis == axis % len(call.shape):
        raise call.mixed(ALONG)
    return place


@_rule(operator.getitem)
def _part(call: Call) -> ImageAxis:
    return call.the(call.node.args[0])


@_rule(aten.roll.default, aten.flip.default)
def _roll(call: Call) -> ImageAxis:
    named = call.named()
    axes = named["dims"]
    if not axes:
        raise call.mixed("moves elements along all axes")
    return call.alone(call.node.args[0], axes)  # type: ignore[arg-type]


@_rule(aten.constant_pad_nd.default, aten.pad.default)
def _pad(call: Call) -> ImageAxis:
    x: Any = call.node.args[0]
    widths: Any = call.node.args[1]
    return call.alone(x, [-1 - i // 2 for i, width in enumerate(widths) if width])


@_rule(aten.cat.default, aten.stack.default)
def _cat(call: Call) -> ImageAxis:
    parts: Any = call.node.args[0]
    axis = call.named()["dim"] % len(call.shape)
    stacks = call.node.target is aten.stack.default
    places = {call.places[part] for part in parts if call.places[part]}
    if len({(place.axis, place.entries) for place in places if place}) != 1:
        raise call.mixed("has operands in which the images stand in different places")
    place: Any = next(iter(places))
    if place.axis == axis and not stacks:
        if any(call.places[part] is None for part in parts):
            raise call.mixed("puts constants between the images")
        return dataclasses.replace(place, before=sum(call.places[part].before for part in parts))  # type: ignore
    if len(places) != 1:
        raise call.mixed("has operands in which the images stand in different places")
    for i, part in enumerate(parts):
        if call.places[part] is None:
            call.repeat((0, i), part, place)
    return place.moved(place.axis + (stacks and axis <= place.axis))


# What computes.


@_rule(
    aten.linear.default,
    _packqvit.linear.default,
    _packqvit.linear_accumulate.default,
    _packqvit.layer_norm.default,
    _packqvit.head_norm.default,
    _packqvit.requantize.default,
    _packqvit.top_k.default,
)
def _last(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], [-1])  # type: ignore[arg-type]


@_rule(_packqvit.linear_add.default)
def _linear_add(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (5, call.node.args[5])]), -1)  # type: ignore


@_rule(_packqvit.requantize_add.default)
def _requantize_add(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (3, call.node.args[3])]), -1)  # type: ignore


@_rule(_packqvit.layer_norm_add.default)
def _layer_norm_add(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (4, call.node.args[4])]), -1)  # type: ignore


@_rule(_packqvit.take_scores.default, _packqvit.multiply.default)
def _two_values(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (1, call.node.args[1])]), -1)  # type: ignore


@_rule(aten.layer_norm.default, aten.rms_norm.default)
def _norm(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], range(-len(call.named()["normalized_shape"]), 0))  # type: ignore[arg-type]


@_rule(
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
    aten.convolution.default,
    aten.conv_transpose2d.input,
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.vec,
    aten.upsample_bicubic2d.vec,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.im2col.default,
    aten.group_norm.default,
    _packqvit.patch_embedding.default,
    _packqvit.pixel_codes.default,
)
def _first(call: Call) -> ImageAxis:
    """Operators on [B, channels, ...] that treat every entry of axis 0 alone; without it, that is the channels'."""
    x, second = call.node.args[0], call.node.args[1] if len(call.node.args) > 1 else None
    if call.node.target is aten.group_norm.default:
        rank = 2
    else:
        is_weight = isinstance(second, Node) and call.node.target is not _packqvit.patch_embedding.default
        rank = call.rank(second) if is_weight else 4  # type: ignore[arg-type]
    return call.alone(x, range(call.rank(x) >= rank, call.rank(x)))  # type: ignore[arg-type]


@_rule(aten.batch_norm.default)
def _batch_norm(call: Call) -> ImageAxis:
    if call.named()["training"]:
        raise call.mixed("normalises over the images")
    return call.alone(call.node.args[0], [1])  # type: ignore[arg-type]


@_rule(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(call: Call) -> ImageAxis:
    left, right = call.node.args[:2]
    return _product(call, left, right, 0)


@_rule(aten.baddbmm.default)
def _baddbmm(call: Call) -> ImageAxis:
    added, left, right = call.node.args[:3]
    if call.places[added] is not None:  # type: ignore[index]
        raise call.mixed("adds images to a product")
    place = _product(call, left, right, 1)
    call.broadcast(0, added, place)  # type: ignore[arg-type]
    return place


def _product(call: Call, left: Any, right: Any, first: int) -> ImageAxis:
    """A product of matrices: the images are in the axes in front of them, or the rows of the first one."""
    if call.rank(left) < 2 or call.rank(right) < 2:
        raise call.mixed("multiplies vectors")
    place: Any = call.places[left]
    if place is not None and place.axis == call.rank(left) - 2 and call.places[right] is None:
        return place.moved(len(call.shape) - 2)
    inner = [
        operand
        for operand in (left, right)
        if (at := call.places[operand]) is not None and at.axis >= call.rank(operand) - 2
    ]
    if inner:
        raise call.mixed("sums over the images")
    place = call.aligned([(first, left), (first + 1, right)])
    if call.node.target in (aten.bmm.default, aten.baddbmm.default):  # which do not broadcast
        for index, operand in ((first, left), (first + 1, right)):
            if call.places[operand] is None:
                call.repeat((index,), operand, place)
    return place


@_rule(aten.scaled_dot_product_attention.default)
def _attention(call: Call) -> ImageAxis:
    named = call.named()
    place = call.aligned([(i, named[name]) for i, name in enumerate(("query", "key", "value"))])
    if place.axis >= len(call.shape) - 2:
        raise call.mixed("attends from one image to others")
    mask = named["attn_mask"]
    if mask is not None:
        if call.places[mask] is not None or "attn_mask" in call.node.kwargs and call.rank(mask) > 2:
            raise call.mixed("has a mask that depends on the images")
        if "attn_mask" not in call.node.kwargs:
            call.broadcast(3, mask, place)
    return place


@_rule(
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
    aten.amin.default,
    aten.var.dim,
    aten.var.correction,
    aten.std.dim,
    aten.max.dim,
    aten.min.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.logsumexp.default,
    aten.linalg_vector_norm.default,
    aten.prod.dim_int,
    aten.any.dim,
    aten.all.dim,
)
def _reduce(call: Call) -> ImageAxis:
    named = call.named()
    axes = named["dim"]
    if axes is None or axes == []:
        raise call.mixed("reduces over all images")
    return _without(call, axes if isinstance(axes, (list, tuple)) else [axes], named["keepdim"])


@_rule(aten.einsum.default)
def _einsum(call: Call) -> ImageAxis:
    equation, operands = call.node.args[:2]
    terms, arrow, result = str(equation).replace(" ", "").partition("->")
    parts: Any = operands
    if not arrow or "." in str(equation):
        raise call.mixed("is spelled in a way that nobody follows")
    letters = set()
    places = set()
    for term, part in zip(terms.split(","), parts, strict=True):
        place = call.places[part]
        if place is not None:
            letters.add(term[place.axis])
            places.add((place.before, place.entries))
    if len(letters) != 1 or len(places) != 1 or (letter := letters.pop()) not in result:
        raise call.mixed("sums over the images")
    for term, part in zip(terms.split(","), parts, strict=True):
        if call.places[part] is None and letter in term:
            raise call.mixed("takes for each image what is constant")
    before, entries = places.pop()
    return ImageAxis(result.index(letter), before, entries)


# Integer operators.


@_rule(_packqvit.quantize.default, _packqvit.dequantize.default)
def _quantize(call: Call) -> ImageAxis:
    named = call.named()
    axes = range(1, named["axis"] + 1) if named.get("channels_first") else [named["axis"]]
    return call.alone(call.node.args[0], axes)  # type: ignore[arg-type]


@_rule(_packqvit.rotary.default, _packqvit.rotate.default, _packqvit.relative_bias.default)
def _positions(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], range(1, len(call.shape)))  # type: ignore[arg-type]


@_rule(_packqvit.select_tokens.default, _packqvit.mean_tokens.default, _packqvit.max_tokens.default)
def _tokens(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], [1])  # type: ignore[arg-type]


@_rule(_packqvit.join_tokens.default)
def _join_tokens(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (1, call.node.args[1])]), 1)  # type: ignore


@_rule(_packqvit.repeat_tokens.default)
def _repeat_tokens(call: Call) -> ImageAxis:
    place: Any = call.places[call.node.args[1]]  # type: ignore[index]
    if place is None or place.axis != 0:
        raise call.mixed("repeats tokens along what are no images")
    return place


@_rule(_packqvit.attention_scores.default, _packqvit.attention_values.default, _packqvit.add_relative_bias.default)
def _attention_product(call: Call) -> ImageAxis:
    left, right = call.node.args[:2]
    places = {call.places[left], call.places[right]}  # type: ignore[index]
    if call.node.target is _packqvit.attention_scores.default and call.shape_of(left)[0] == 1:  # type: ignore[arg-type]
        places.discard(None)  # queries of all images
    if len(places) != 1 or (place := places.pop()) is None or place.axis != 0:
        raise call.mixed("attends from one image to others")
    return place


@_rule(_packqvit.softmax.default)
def _integer_softmax(call: Call) -> ImageAxis:
    named = call.named()
    place = call.alone(named["x"], [1, 2, 3])
    windows = place.entries if place.before == 1 else 1
    # Row (b * heads + h) of the scores has row (b * heads + h) % rows of the bias, and groups[b % rows].
    if isinstance(named["bias"], Node) and call.shape[1] * windows % call.shape_of(named["bias"])[0]:
        raise call.mixed("has a bias that differs from one image to the next")
    if isinstance(named["groups"], Node) and windows % call.shape_of(named["groups"])[0]:
        raise call.mixed("has a mask that differs from one image to the next")
    return place
