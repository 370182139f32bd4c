"""For each operator, where the images stand in its result: only where it treats each image alone."""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .passes.graph import arguments, aten, constant, is_constant
from .passes.layout import COPIES, PERMUTES, RESHAPES, permutation

_ALONG = "mixes what stands along the axis of the images"


class Mixed(Exception):  # noqa: N818 - a control-flow signal with a reason, not an error
    """An operator mixes images with each other, or nobody knows whether it does; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class ImageAxis:
    """The axis of a value along which images stand: `before` runs of all images, of each image `entries` in a row.

    Attributes:
        axis: Its number; its size is before * images * entries.
        before: What is outside of the images, e.g. the tokens in [N * B, C].
        entries: What is inside of an image, e.g. its windows in [B * windows, N, C].
    """

    axis: int
    before: int = 1
    entries: int = 1

    def moved(self, axis: int) -> ImageAxis:
        """The same on another axis."""
        return dataclasses.replace(self, axis=axis)

    def sizes(self, sizes: Sequence[int], images: int) -> list[int]:
        """A shape for so many images."""
        return [self.before * images * self.entries if i == self.axis else size for i, size in enumerate(sizes)]

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over the images; without their axis where nothing else stands on it."""
        if self.before == self.entries == 1:
            return value.sum(self.axis)
        return (
            value.unflatten(self.axis, (self.before, -1, self.entries))
            .sum(self.axis + 1)
            .flatten(self.axis, self.axis + 1)
        )

    def spread(self, total: torch.Tensor, images: int) -> torch.Tensor:
        """The same for each image: the counterpart of `total`."""
        if self.before == self.entries == 1:
            total = total.unsqueeze(self.axis)
            return total.expand(self.sizes(total.shape, images))
        return self.repeated(total, 1, images)

    def repeated(self, value: torch.Tensor, held: int, images: int) -> torch.Tensor:
        """A value in which `held` images stand, all alike, with another number of them."""
        parts = value.unflatten(self.axis, (self.before, held, self.entries)).narrow(self.axis + 1, 0, 1)
        parts = parts.expand(*[images if axis == self.axis + 1 else -1 for axis in range(parts.dim())])
        return parts.flatten(self.axis, self.axis + 2)


class Call:
    """An operator call, what is known about its operands, and what its rule finds out about running it.

    Attributes:
        node: The call.
        images: Images that the graph was exported for.
        shape: Of the result; of the first one, where there are several.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        node: Node,
        places: Mapping[Node, ImageAxis | None],
        values: Mapping[Node, Any],
        result: Any,
        images: int,
    ) -> None:
        """Reads what is known.

        Args:
            graph_module: Holds the constants.
            node: The call.
            places: Where the images stand in values before it.
            values: Tensors of their shapes.
            result: The same of its own.
            images: As the attribute.
        """
        self.node, self.images, self.places = node, images, places
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        self.shape: tuple[int, ...] = tuple(first.shape) if isinstance(first, torch.Tensor) else ()
        self._module, self._values = graph_module, values
        self._sizes: tuple[int, ImageAxis] | None = None
        self._repeated: dict[tuple[int, ...], ImageAxis] = {}

    def shape_of(self, operand: Node) -> tuple[int, ...]:
        """Shape of an operand."""
        return tuple(self._values[operand].shape)

    def rank(self, operand: Node) -> int:
        """Rank of an operand."""
        return len(self.shape_of(operand))

    def named(self) -> dict[str, Any]:
        """The arguments by the names in the operator's schema."""
        return arguments(self.node)

    def the(self, operand: Any) -> ImageAxis:
        """Where the images stand in an operand, and in no other.

        Raises:
            Mixed: They do not, or they stand in another one too.
        """
        place = self.places[operand] if isinstance(operand, Node) else None
        others = [other for other in self.node.all_input_nodes if other is not operand and self.places[other]]
        if place is None or others:
            raise self.mixed("reads images where it is not expected to")
        return place

    def alone(self, operand: Node, axes: Sequence[int]) -> ImageAxis:
        """Where the images stand in the one operand that has some, if that is none of the axes which get mixed."""
        place = self.the(operand)
        if place.axis in {axis % self.rank(operand) for axis in axes}:
            raise self.mixed(_ALONG)
        return place

    def spells(self, index: int, place: ImageAxis) -> None:
        """Says that an argument lists the sizes of the result, in which the images stand at `place`."""
        self._sizes = (index, place)

    def aligned(self, operands: Sequence[tuple[int, Node]]) -> ImageAxis:
        """Where the images stand in the result of operands that are broadcast against each other.

        Args:
            operands: Each with its number among the call's arguments.

        Raises:
            Mixed: They stand in different places, or a constant differs from one image to the next.
        """
        found: set[ImageAxis] = set()
        for _, operand in operands:
            place = self.places[operand]
            if place is not None:
                axis = place.axis + len(self.shape) - self.rank(operand)
                if self.shape_of(operand)[place.axis] != self.shape[axis]:
                    raise self.mixed("repeats images")
                found.add(place.moved(axis))
        if len(found) != 1:
            raise self.mixed("has operands in which the images stand in different places")
        (place,) = found
        for index, operand in operands:
            if self.places[operand] is None:
                self.broadcast(index, operand, place)
        return place

    def broadcast(self, index: int, operand: Node, place: ImageAxis) -> None:
        """Repeats a constant operand for each image, unless it is broadcast anyway to the images of the result."""
        place = place.moved(place.axis - len(self.shape) + self.rank(operand))
        if place.axis >= 0 and self.shape_of(operand)[place.axis] > 1:
            self.repeat((index,), operand, place)

    def repeat(self, path: tuple[int, ...], operand: Node, place: ImageAxis) -> None:
        """Says that a constant operand is there once for each image.

        Args:
            path: Where it stands in the call's arguments: a number, or two where it is in a list.
            operand: The constant.
            place: Where the images stand in it.

        Raises:
            Mixed: It differs from one image to the next.
        """
        if self.images > 1:
            if not is_constant(operand):
                raise self.mixed("takes for each image what is computed at run time")
            value = constant(self._module, operand)
            if not torch.equal(place.repeated(value, self.images, self.images), value):
                raise self.mixed("takes constants that differ from one image to the next")
        self._repeated[path] = place

    def mixed(self, reason: str) -> Mixed:
        """The signal that images cannot be told apart behind this call."""
        return Mixed(f"{self.node.name} ({self.node.target}) {reason}")

    def arguments(self, args: tuple[Any, ...], images: int) -> tuple[Any, ...]:
        """The arguments for another number of images."""
        adapted = list(args)
        if self._sizes is not None:
            index, place = self._sizes
            adapted[index] = place.sizes(args[index], images)
        for path, place in self._repeated.items():
            if len(path) == 1:
                adapted[path[0]] = place.repeated(args[path[0]], self.images, images)
            else:
                parts = list(adapted[path[0]])
                parts[path[1]] = place.repeated(parts[path[1]], self.images, images)
                adapted[path[0]] = parts
        return tuple(adapted)


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
    _packqvit.saturating_gelu.default,
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
    aten.slice.Tensor,
    aten.narrow.default,
    aten.chunk.default,
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
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
        raise call.mixed(_ALONG)
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
    _packqvit.top_k.default,
)
def _last(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], [-1])  # type: ignore[arg-type]


@_rule(_packqvit.linear_add.default)
def _linear_add(call: Call) -> ImageAxis:
    return _not_along(call, call.aligned([(0, call.node.args[0]), (5, call.node.args[5])]), -1)  # type: ignore


@_rule(_packqvit.take_scores.default)
def _scores(call: Call) -> ImageAxis:
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
    """Operators on [B, channels, ...] that treat every entry of axis 0 alone."""
    x: Any = call.node.args[0]
    if call.node.target in (aten.conv1d.default, aten.conv1d.padding, aten.group_norm.default):
        whole = call.rank(x) >= 3
    else:
        whole = call.rank(x) >= 4
    return call.alone(x, range(0 if not whole else 1, call.rank(x)))


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
    return call.alone(call.node.args[0], [call.named()["axis"]])  # type: ignore[arg-type]


@_rule(_packqvit.select_tokens.default, _packqvit.mean_tokens.default)
def _tokens(call: Call) -> ImageAxis:
    return call.alone(call.node.args[0], [1])  # type: ignore[arg-type]


@_rule(_packqvit.attention_scores.default, _packqvit.attention_values.default)
def _attention_product(call: Call) -> ImageAxis:
    left, right = call.node.args[:2]
    places = {call.places[left], call.places[right]}  # type: ignore[index]
    if len(places) != 1 or (place := places.pop()) is None or place.axis != 0:
        raise call.mixed("attends from one image to others")
    return place


@_rule(_packqvit.softmax.default)
def _integer_softmax(call: Call) -> ImageAxis:
    x, bias = call.node.args[:2]
    place = call.alone(x, [1, 2, 3])  # type: ignore[arg-type]
    if isinstance(bias, Node):  # row (b * heads + h) of the scores has row (b * heads + h) % rows of the bias
        period = call.shape[1] * (place.entries if place.before == 1 else 1)
        if period % call.shape_of(bias)[0]:
            raise call.mixed("has a bias that differs from one image to the next")
    return place
