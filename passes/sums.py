"""Sums of skips, linears and LayerNorms, however they are spelled: what is added, and times what."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    add_linear,
    add_to_bias,
    arguments,
    aten,
    call,
    constant,
    dtype_of,
    has_tensor,
    is_call,
    is_constant,
    keep_module,
    linear_parameters,
    shape_of,
)
from .patterns import is_channel_norm

_SUMS = (aten.add.Tensor, aten.sub.Tensor, aten.lerp.Scalar, aten.lerp.Tensor)
_PRODUCTS = (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.neg.default)


@dataclasses.dataclass
class Sum:
    """A value [..., C] as a sum: each term times a constant, and a constant.

    Attributes:
        terms: Factor of each term, a number or a vector [C], float64.
        constant: A number or a vector [C], float64.
    """

    terms: dict[Node, Tensor] = dataclasses.field(default_factory=dict)
    constant: Tensor = dataclasses.field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, node: Node, factor: Tensor) -> None:
        """Adds a term, or to the factor that it has."""
        self.terms[node] = self.terms[node] + factor if node in self.terms else factor


def is_sum(node: Node) -> bool:
    """Whether a node may be the last of those that make up a sum."""
    return is_call(node, *_SUMS, *_PRODUCTS) and has_tensor(node) and dtype_of(node).is_floating_point


def read_sum(graph_module: GraphModule, root: Node) -> Sum:
    """What a node adds up, seen through additions, subtractions and constant factors that nothing else reads."""
    found = Sum()
    _read(graph_module, root, torch.ones((), dtype=torch.float64), found, root)
    return found


def parts_of(graph_module: GraphModule, root: Node) -> set[Node]:
    """The nodes that `read_sum` sees through, without the last one."""
    terms, parts, waiting = read_sum(graph_module, root).terms, set(), list(root.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node not in terms and not is_constant(node) and node not in parts:
            parts.add(node)
            waiting.extend(node.all_input_nodes)
    return parts


def is_branch(graph_module: GraphModule, node: Any) -> bool:
    """Whether a node is a linear with constant parameters that no more than one operator reads."""
    return (
        is_call(node, aten.linear.default) and len(node.users) < 2 and linear_parameters(graph_module, node) is not None
    )


def is_norm_branch(graph_module: GraphModule, node: Any) -> bool:
    """Whether a node is a LayerNorm with constant weight and bias that no more than one operator reads."""
    return (
        is_channel_norm(node) and len(node.users) < 2 and all(map(is_constant, node.args[2:4])) and len(node.args) > 3
    )


def branches_of(graph_module: GraphModule, found: Sum) -> list[Node]:
    """What a sum adds up behind all else: its linears or, where there are none, its LayerNorms (post-norm)."""
    linears = [node for node in found.terms if is_branch(graph_module, node)]
    return linears or [node for node in found.terms if is_norm_branch(graph_module, node)]


def write_sum(graph_module: GraphModule, root: Node, found: Sum) -> None:
    """Puts the canonical form of a sum in the place of a node: skips first, then one branch after the other.

    Factors of branches, and the constant, become part of their weights and biases. That of a skip stays a product,
    right behind the skip: its value is there before that of the linear is wanted.

    after: add(add(mul(x, factor), linear(y)), linear(z))
    """
    branches = branches_of(graph_module, found)
    skips = [node for node in found.terms if node not in branches]
    total: Node | None = None
    for node in skips:
        scaled = _scaled(graph_module, node, found.terms[node])
        total = scaled if total is None else _inserted(graph_module, root, total, scaled)
    shift = found.constant
    for node in branches:
        scaled_branch = _scaled_norm if is_channel_norm(node) else _scaled_linear
        branch = scaled_branch(graph_module, root, node, found.terms[node], shift)
        shift = torch.zeros_like(shift)
        total = branch if total is None else _inserted(graph_module, root, total, branch)
    assert total is not None
    if bool(shift.any()):
        with graph_module.graph.inserting_before(root):
            value = add_constant(graph_module, shift.to(dtype_of(root)), f"{root.name}_constant")
            total = call(graph_module, aten.add.Tensor, total, value)
    root.replace_all_uses_with(total)


def channel_constant(graph_module: GraphModule, value: Any, channels: int) -> Tensor | None:
    """A constant that is one number, or one for each channel of all rows: float64 [] or [C]; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    if not is_constant(value):
        return None
    tensor = constant(graph_module, value).double()
    if tensor.numel() == 1:
        return tensor.reshape(())
    if tensor.shape[-1:] != (channels,):
        return None
    rows = tensor.reshape(-1, channels)
    return rows[0] if torch.equal(rows[:1].expand_as(rows), rows) else None


def _read(graph_module: GraphModule, node: Node, factor: Tensor, found: Sum, root: Node) -> None:
    inner = None if node is not root and len(node.users) > 1 else _operands(graph_module, node)
    if inner is None:
        found.add(node, factor)
        return
    for operand, scale in inner:
        if isinstance(operand, Tensor):
            found.constant = found.constant + factor * scale * operand
        else:
            _read(graph_module, operand, factor * scale, found, root)


def _operands(graph_module: GraphModule, node: Node) -> list[tuple[Node | Tensor, Tensor]] | None:
    """The operands of a sum or a product with a constant and their factors; None for anything else."""
    if not is_sum(node) or not shape_of(node):
        return None
    named, channels = arguments(node), shape_of(node)[-1]
    one = torch.ones((), dtype=torch.float64)
    if is_call(node, aten.neg.default):
        pairs: list[tuple[Any, Tensor]] = [(named["self"], -one)]
    elif is_call(node, *_PRODUCTS):
        pairs = _product(graph_module, node, named["self"], named["other"], channels)
    elif is_call(node, aten.add.Tensor, aten.sub.Tensor):
        sign = named["alpha"] if is_call(node, aten.add.Tensor) else -named["alpha"]
        pairs = [(named["self"], one), (named["other"], one * sign)]
    else:
        weight = channel_constant(graph_module, named["weight"], channels)
        pairs = [] if weight is None else [(named["self"], 1 - weight), (named["end"], weight)]
    operands: list[tuple[Node | Tensor, Tensor]] = []
    for value, scale in pairs:
        number = channel_constant(graph_module, value, channels)
        if number is None and (not has_tensor(value) or is_constant(value) or shape_of(value) != shape_of(node)):
            return None
        operands.append((value if number is None else number, scale))
    return operands or None


def _product(graph_module: GraphModule, node: Node, left: Any, right: Any, channels: int) -> list[tuple[Any, Tensor]]:
    factor = channel_constant(graph_module, right, channels)
    if factor is None and is_call(node, aten.mul.Tensor):
        left, right = right, left
        factor = channel_constant(graph_module, right, channels)
    if factor is None:
        return []
    return [(left, 1 / factor if is_call(node, aten.div.Tensor, aten.div.Scalar) else factor)]


def _inserted(graph_module: GraphModule, root: Node, left: Node, right: Node) -> Node:
    with graph_module.graph.inserting_before(root):
        return keep_module(call(graph_module, aten.add.Tensor, left, right), root)


def _scaled(graph_module: GraphModule, node: Node, factor: Tensor) -> Node:
    """A skip times its factor."""
    if bool((factor == 1).all()):
        return node
    number: Any = float(factor) if factor.dim() == 0 else None
    with graph_module.graph.inserting_before(node.next):
        if number is None:
            number = add_constant(graph_module, factor.to(dtype_of(node)), f"{node.name}_factor")
        return keep_module(call(graph_module, aten.mul.Tensor, node, number), node)


def _scaled_linear(graph_module: GraphModule, root: Node, linear: Node, factor: Tensor, shift: Tensor) -> Node:
    """A linear whose result is times a factor and plus a constant, right before the sum."""
    parameters = linear_parameters(graph_module, linear)
    assert parameters is not None
    weight, bias = parameters
    with graph_module.graph.inserting_before(root):
        if bool((factor == 1).all()):
            linear = keep_module(call(graph_module, aten.linear.default, *linear.args), linear)
        else:
            rows = factor.expand(len(weight))
            scaled = (weight.double() * rows.unsqueeze(1)).to(weight.dtype)
            scaled_bias = None if bias is None else (bias.double() * rows).to(bias.dtype)
            linear = add_linear(graph_module, linear, scaled, scaled_bias, "scaled")
    if bool(shift.any()):
        add_to_bias(graph_module, linear, shift.expand(len(weight)).to(weight.dtype))
    return linear


def _scaled_norm(graph_module: GraphModule, root: Node, norm: Node, factor: Tensor, shift: Tensor) -> Node:
    """A LayerNorm whose result is times a factor and plus a constant, right before the sum."""
    weight, bias = (constant(graph_module, operand) for operand in norm.args[2:4])  # type: ignore[arg-type]
    args = list(norm.args)
    with graph_module.graph.inserting_before(root):
        if not bool((factor == 1).all()) or bool(shift.any()):
            scaled = (weight.double() * factor, bias.double() * factor + shift)
            args[2:4] = [add_constant(graph_module, value.to(weight.dtype), f"{norm.name}_scaled") for value in scaled]
        return keep_module(call(graph_module, aten.layer_norm.default, *args), norm)
