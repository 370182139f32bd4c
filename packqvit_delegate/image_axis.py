"""Where the images of a batch stand in a value, and what is known about an operator call that reads some."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .passes.graph import arguments, constant, is_constant

ALONG = "mixes what stands along the axis of the images"


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
            raise self.mixed(ALONG)
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
