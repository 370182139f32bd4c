"""Products and sums with constants: what stands in front of a quantiser, or of a patch embedding, can be part of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import arguments, aten, constant, dtype_of, has_tensor, is_call, is_constant, shape_of

_SUMS = (aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Tensor, aten.rsub.Scalar)
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)


@dataclasses.dataclass(frozen=True)
class Affine:
    """A value as factor * source + offset.

    Attributes:
        source: Of the same shape.
        factor: float64, a number or of the shape of the value, sizes of 1 where it is the same all along an axis.
        offset: The same.
    """

    source: Node
    factor: Tensor
    offset: Tensor


def read_affine(graph_module: GraphModule, value: Node, steps: int | None = None) -> Affine:
    """What a value is of the first value in front of it that is no product or sum with constants.

    Args:
        graph_module: Holds the constants.
        value: Real.
        steps: So many of them at most.
    """
    factor, offset = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    while steps != 0 and (found := _step(graph_module, value)) is not None:
        steps = None if steps is None else steps - 1
        value, times, plus = found
        factor, offset = factor * times, factor * plus + offset
    rank = len(shape_of(value))
    return Affine(value, _shortest(factor, rank), _shortest(offset, rank))


def _step(graph_module: GraphModule, node: Node) -> tuple[Node, Tensor, Tensor] | None:
    """The operand of a product or a sum with a constant, what it is multiplied with, and what is added."""
    if not is_call(node, *_SUMS, *_PRODUCTS, aten.neg.default) or not dtype_of(node).is_floating_point:
        return None
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    given = arguments(node)
    left, right = given["self"], given.get("other", -1.0)
    operand, other, swapped = left, _number(graph_module, right), False
    if other is None or is_constant(left):
        operand, other, swapped = right, _number(graph_module, left), True
    if other is None or not has_tensor(operand) or is_constant(operand) or shape_of(operand) != shape_of(node):
        return None
    if not dtype_of(operand).is_floating_point:  # bytes, which become real numbers here
        return None
    if is_call(node, aten.neg.default):
        return operand, -one, zero
    if is_call(node, *_PRODUCTS):
        divides = is_call(node, aten.div.Tensor, aten.div.Scalar)
        if divides and (swapped or not bool(other.all())):
            return None
        return operand, one / other if divides else other, zero
    alpha = torch.tensor(float(given["alpha"]), dtype=torch.float64)
    signs = {"add": (one, alpha), "sub": (one, -alpha), "rsub": (-alpha, one)}
    first, second = signs[node.target._opname]  # type: ignore[union-attr]
    of_operand, of_other = (second, first) if swapped else (first, second)
    return operand, of_operand, of_other * other


def _number(graph_module: GraphModule, value: Any) -> Tensor | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    if not is_constant(value) or not dtype_of(value).is_floating_point:
        return None
    found = constant(graph_module, value).double()
    return found if bool(torch.isfinite(found).all()) else None


def _shortest(values: Tensor, rank: int) -> Tensor:
    """A tensor with an axis of size 1 wherever it is the same all along it."""
    values = values.reshape([1] * (rank - values.ndim) + list(values.shape))
    for axis in range(rank):
        first = values.narrow(axis, 0, 1)
        if values.shape[axis] > 1 and torch.equal(first.expand_as(values), values):
            values = first
    return values


def varying_axes(*tensors: Tensor) -> tuple[int, int]:
    """The first axis along which one of some tensors of one rank varies, and the one behind the last; (0, 0): none."""
    axes = [axis for tensor in tensors for axis, size in enumerate(tensor.shape) if size > 1]
    return (min(axes), max(axes) + 1) if axes else (0, 0)
