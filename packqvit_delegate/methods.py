"""The methods of a program that takes several numbers of images: an integer graph for each, of one calibration."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate, map_arg

from .batching import ImageAxes
from .errors import PackQViTError, UnsupportedModelError
from .passes.graph import add_constant, constant, is_constant
from .passes.propagate_values import propagate_values

FORWARD = "forward"


def method_names(batch_sizes: Sequence[int]) -> dict[str, int]:
    """The number of images that each method takes: `forward` the first, `forward_<n>` the others.

    Raises:
        PackQViTError: There are none, one is no number of images, or is there twice.
    """
    sizes = list(batch_sizes)
    if not sizes or min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise PackQViTError(
            f"batch_sizes is {tuple(sizes)}, but must be one or more numbers of images, from 1 on and each once"
        )
    return {FORWARD if index == 0 else f"{FORWARD}_{size}": size for index, size in enumerate(sizes)}


def of_images(example_inputs: tuple[torch.Tensor, ...], images: int) -> tuple[torch.Tensor, ...]:
    """Zeros in the shapes of example inputs, for another number of images."""
    return tuple(tensor.new_zeros((images, *tensor.shape[1:])) for tensor in example_inputs)


def for_images(integer_module: GraphModule, images: int) -> GraphModule:
    """The same integer graph for another number of images: the same codes for each, and the same constants.

    before: reshape(x [1, P, D], [1, h, w, D])
    after:  reshape(x [images, P, D], [images, h, w, D])

    Args:
        integer_module: Result of api.quantize; stays as it is.
        images: That it is to take along axis 0 of its inputs.

    Returns:
        A graph of its own that shares the tensors of `integer_module`; that itself where the number is its own.

    Raises:
        UnsupportedModelError: An operator of the model does not treat each image alone.
    """
    axes = ImageAxes(integer_module)
    if images == axes.exported:
        return integer_module
    if axes.obstacle is not None:
        raise UnsupportedModelError(
            f"a program for {images} images cannot be made of the one for {axes.exported}, because {axes.obstacle}: "
            f"export with example inputs of {images} images"
        )
    tensors = [*integer_module.parameters(), *integer_module.buffers()]
    result = copy.deepcopy(integer_module, {id(tensor): tensor for tensor in tensors})
    twins = dict(zip(integer_module.graph.nodes, result.graph.nodes, strict=True))
    values: dict[Node, torch.Tensor] = {}
    known: dict[int, Node] = {}
    for node, twin in twins.items():
        if node.op == "placeholder":
            shape = axes.sizes(node, node.meta["val"].shape, images)
            twin.meta["val"] = node.meta["val"].new_empty(shape)
        elif node.op == "call_module":  # torch.export's check of the inputs' shapes
            result.graph.erase_node(twin)
        elif is_constant(node):
            values[node] = constant(integer_module, node)
            known[id(values[node])] = twin
        elif node.op == "call_function":
            args: Any = map_arg(node.args, lambda operand: values.get(operand, twins[operand]))
            _give(result, twin, axes.arguments(node, args, images), known)
    propagate_values(result)
    result.recompile()
    return result


def _give(graph_module: GraphModule, twin: Node, args: tuple[Any, ...], known: Mapping[int, Node]) -> None:
    """Gives a call other arguments; a constant that is there once for each image becomes a new one.

    Args:
        graph_module: The graph of the call.
        twin: The call.
        args: With nodes of the graph, and tensors in the place of constants.
        known: The nodes of constants that are there, by the identity of their tensors.
    """

    def operand(argument: Any) -> Any:
        if isinstance(argument, torch.Tensor):
            return known.get(id(argument)) or add_constant(graph_module, argument, f"{twin.name}_images")
        return argument

    with graph_module.graph.inserting_before(twin):
        twin.args = map_aggregate(args, operand)
