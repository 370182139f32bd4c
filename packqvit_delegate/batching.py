"""Runs a graph that was exported for one number of images on another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from .batch_rules import place_of
from .errors import CalibrationError
from .image_axis import Call, ImageAxis, Mixed
from .passes.graph import is_constant

Inputs = tuple[torch.Tensor, ...]

_TRIED = 3
"""The shapes of every operator are tried with so many times the exported images."""


class ImageAxes:
    """Where the images stand in every value of a graph, and so how to run it on another number of them.

    The images come along axis 0 of the inputs. From there data flow says where they are: a permutation takes their axis
    along; windows, tiles or frames that are folded into it are so many entries for each image; constants that are there
    once for each image are repeated. Each operator has to treat the entries of that axis alone (batch_rules.py), and is
    tried on shapes alone with more images. Where that fails, or an operator is not known, the graph runs on the number
    of images that it was exported for, which is slower and always right.

    Attributes:
        exported: Images that the graph was exported for.
        obstacle: Why it runs on that number only; None: it runs on any.
    """

    def __init__(self, graph_module: GraphModule, exported: int = 1) -> None:
        """Follows the images through a graph.

        Args:
            graph_module: A canonical float graph, with or without observers, or an integer graph.
            exported: Images that it was exported for, where its inputs carry no shapes.
        """
        inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]
        shapes = [_shape(node) for node in inputs]
        sizes = {shape[0] if shape else 0 for shape in shapes if shape is not None}
        self.exported = sizes.pop() if len(sizes) == 1 else exported
        self.obstacle: str | None = "its inputs do not all have the same number of images" if sizes else None
        self._module = graph_module
        self._places: dict[Node, ImageAxis | None] = {}
        self._calls: dict[Node, Call] = {}
        self._shapes: dict[Node, Any] = {}
        if self.obstacle is None:
            try:
                self._follow()
            except Mixed as reason:
                self.obstacle = str(reason)
                self._places.clear()

    def place(self, node: Node) -> ImageAxis | None:
        """Where the images stand in a node's value; None where they do not, or the graph has an obstacle."""
        return self._places.get(node)

    def arguments(self, node: Node, args: tuple[Any, ...], images: int) -> tuple[Any, ...]:
        """The arguments of a call, with the sizes that it spells out, and what is there once for each image, adapted.

        Args:
            node: The call.
            args: Its arguments, nodes replaced by their values.
            images: Images in these values.

        Returns:
            Arguments for `node.target`.
        """
        call = self._calls.get(node)
        return args if call is None or images == self.exported else call.arguments(args, images)

    def sizes(self, node: Node, sizes: Sequence[int], images: int) -> list[int]:
        """The shape that a node's value has with so many images, from the one that it was exported with."""
        place = self._places.get(node)
        return list(sizes) if place is None else place.sizes(sizes, images)

    def total(self, node: Node, value: torch.Tensor) -> torch.Tensor:
        """The sum over the images of what belongs to a node's value, all axes of it or the first ones."""
        place = self._places.get(node)
        return value if place is None else place.total(value)

    def spread(self, node: Node, total: torch.Tensor, images: int) -> torch.Tensor:
        """The same for each of so many images: the counterpart of `total`."""
        place = self._places.get(node)
        return total if place is None else place.spread(total, images)

    def at_once(self, images: int) -> int:
        """How many images to run at once where so many are wanted, at least."""
        return self.exported if self.obstacle is not None else max(images, self.exported)

    def cut(self, batches: Sequence[Inputs]) -> list[Inputs]:
        """Batches that the graph runs on: as they are, or in parts of the number of images that it was exported for.

        Raises:
            CalibrationError: There are images left over.
        """
        return [part for batch in batches for part in self._parts(batch)]

    def _parts(self, batch: Inputs) -> list[Inputs]:
        images = batch[0].shape[0]
        if self.obstacle is None or images == self.exported:
            return [batch]
        if images % self.exported:
            raise CalibrationError(
                f"the model was exported for {self.exported} images at once and runs on that number only, because "
                f"{self.obstacle}; {images} images came, which is no multiple of it: give one, or export for one image"
            )
        return list(zip(*(tensor.split(self.exported) for tensor in batch), strict=True))

    def _follow(self) -> None:
        for node in self._module.graph.nodes:
            if node.op == "placeholder":
                shape = _shape(node)
                if shape is None:
                    raise Mixed("the graph carries no shapes")
                self._places[node], self._shapes[node] = ImageAxis(0), torch.empty(shape, device="meta")
            elif node.op == "get_attr" and is_constant(node):
                value = node.meta["val"]
                self._places[node] = None
                self._shapes[node] = torch.empty(value.shape, dtype=value.dtype, device="meta")
            elif node.op == "call_module" and node.users:  # an observer
                self._places[node], self._shapes[node] = (table[node.args[0]] for table in (self._places, self._shapes))
            elif node.op == "call_function":
                self._place(node)

    def _place(self, node: Node) -> None:
        try:
            value = self._run(node, node.args)
            if all(self._places[operand] is None for operand in node.all_input_nodes):
                place = None
            else:
                call = Call(self._module, node, self._places, self._shapes, value, self.exported)
                place = place_of(call)
                self._calls[node] = call
                self._try(node, call, place, value)
        except KeyError as missing:
            raise Mixed(f"nothing is known about {missing}") from missing
        self._places[node], self._shapes[node] = place, value

    def _try(self, node: Node, call: Call, place: ImageAxis, value: Any) -> None:
        """Runs an operator on shapes alone, with more images."""
        images = _TRIED * self.exported

        def grown(operand: Node) -> Any:
            return _grown(self._shapes[operand], self._places[operand], images)

        args: Any = map_arg(node.args, grown)
        try:
            found = node.target(*call.arguments(args, images), **map_arg(node.kwargs, grown))  # type: ignore[operator]
        except Exception as error:
            raise Mixed(f"{node.name} does not run on more images ({type(error).__name__})") from error
        if _shapes_of(found) != _shapes_of(_grown(value, place, images)):
            raise Mixed(f"{node.name} gives another shape than expected for more images")

    def _run(self, node: Node, args: Any) -> Any:
        operands: Any = map_arg((args, node.kwargs), self._shapes.__getitem__)
        try:
            with torch.no_grad():
                return node.target(*operands[0], **operands[1])  # type: ignore[operator]
        except KeyError:
            raise
        except Exception as error:
            raise Mixed(f"{node.name} does not run on shapes alone ({type(error).__name__})") from error


def _shape(node: Node) -> tuple[int, ...] | None:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def _grown(value: Any, place: ImageAxis | None, images: int) -> Any:
    if place is None:
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(_grown(part, place, images) for part in value)
    return value.new_empty(place.sizes(value.shape, images)) if isinstance(value, torch.Tensor) else value


def _shapes_of(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_shapes_of(part) for part in value]
    return tuple(value.shape) if isinstance(value, torch.Tensor) else value
