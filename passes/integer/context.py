"""The state of the integer lowering: which value has which codes, and how to add nodes and constants."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.grids import AffineGrid, Grid, OffsetGrid, ProbabilityGrid, ResidualGrid

from ..codes import codes_of_constant, is_dequantize, is_quantize
from ..graph import add_constant, call, constant, is_call, is_constant, keep_module
from ..layout import is_layout
from ..reasons import NotLowered, describe, is_integer, listed, origin, read_by

GRID = "packqvit_grid"
"""Key of node.meta: the grid of an integer node's codes."""

FLOAT_NAME = "packqvit_float_name"
"""Key of node.meta: the name of the float value that an integer node stands for."""


SOURCE = "packqvit_source"
"""Key of node.meta: the name of the float node that an integer node was made for."""


def keep_trace(node: Node, source: Node) -> Node:
    """Lets a new node tell the module and the source line of the one it replaces, and its codes; returns it."""
    for key in (GRID, FLOAT_NAME, SOURCE):
        if key in source.meta:
            node.meta[key] = source.meta[key]
    return keep_module(node, source)


@dataclasses.dataclass(frozen=True)
class Codes:
    """An integer node and what its codes mean."""

    node: Node
    grid: Grid


@dataclasses.dataclass
class LoweringContext:
    """Codes of the float values that have some, and the graph under construction.

    Attributes:
        graph_module: The converted graph; integer nodes are added to it.
        codes: Float value -> its codes.
        reasons: Float node -> why it was not lowered, where a rule says so.
        kept: Names of float nodes that are to have no codes -> why.
    """

    graph_module: GraphModule
    codes: dict[Node, Codes] = dataclasses.field(default_factory=dict)
    reasons: dict[Node, NotLowered] = dataclasses.field(default_factory=dict)
    kept: dict[str, str] = dataclasses.field(default_factory=dict)

    def codes_of(self, value: object, what: str) -> Codes:
        """The codes of a float value.

        Raises:
            NotLowered: It has none.
        """
        found = self.find_codes(value)
        if found is None:
            raise self._no_codes(value, what)
        return found

    def _no_codes(self, value: object, what: str) -> NotLowered:
        """Which operator a value without codes comes from, or which move took its codes apart."""
        if not isinstance(value, Node):
            return NotLowered(f"{what} is a number: it would have to be a tensor with codes")
        source = origin(value)
        while value is not source:
            before = value.args[0]
            if is_layout(value) and self.find_codes(before) is not None:
                return NotLowered(
                    f"{what} is taken apart by {describe(value)}: it would have to move as whole tokens, the last axis "
                    "with all its channels"
                )
            value = before
            assert isinstance(value, Node)
        if is_integer(source):
            return NotLowered(
                f"{what} is {describe(source)}, in float for {listed(read_by(source))}: to get codes, it would have to "
                "be read by one function of one variable, by one attention or one addition into the residual stream, "
                "and by nothing else"
            )
        if source.op == "placeholder":
            return NotLowered(
                f"{what} is {describe(source)}: an input gets codes where a patch embedding, linear layers, a "
                "LayerNorm or an addition into the residual stream reads it: one of these would have to stand between"
            )
        return NotLowered(f"{what} comes from {describe(source)}, which stays in float", source)

    def keeps(self, node: Node) -> bool:
        """Whether a float node is to have no codes; its reason is noted then."""
        if node.name not in self.kept:
            return False
        self.reasons[node] = NotLowered(self.kept[node.name])
        return True

    def find_codes(self, value: object) -> Codes | None:
        """The codes of a float value (or of what dequantises to it), or None."""
        if not isinstance(value, Node):
            return None
        if is_dequantize(value):
            quantize = value.args[0]
            if isinstance(quantize, Node) and is_quantize(quantize):
                return self.codes.get(quantize.args[0])  # type: ignore[arg-type]
            return None
        return self.codes.get(value)

    def constant(self, name: str, value: torch.Tensor) -> Node:
        """A get_attr node of a new constant; call inside `inserting_before`."""
        return add_constant(self.graph_module, value, name)

    def tensor(self, node: object) -> torch.Tensor:
        """The tensor that a get_attr node holds.

        Raises:
            NotLowered: The node is not a constant.
        """
        if not is_constant(node):
            name = describe(node if not isinstance(node, Node) else origin(node))
            raise NotLowered(f"an operand comes from {name} at run time: it would have to be constant")
        return constant(self.graph_module, node)  # type: ignore[arg-type]

    def call(self, target: Any, args: tuple, source: Node) -> Node:
        """An integer operator; named and traced after the float node that it replaces."""
        node = keep_trace(call(self.graph_module, target, *args), source)
        node.meta[SOURCE] = source.name
        return node

    def weight(self, node: object) -> tuple[torch.Tensor, torch.Tensor, int]:
        """A quantised weight behind its dequantize node.

        Returns:
            int8 codes, float64 [O] scales, and 4 or 8 bits.

        Raises:
            NotLowered: The weight was not quantised.
        """
        if not (is_dequantize(node) and isinstance(node, Node) and node.target._opname == "dequantize_per_channel"):  # type: ignore
            raise NotLowered  # the quantizer has said why
        codes, scales = self.tensor(node.args[0]), self.tensor(node.args[1])
        bits = 4 if node.args[5] <= 7 else 8  # type: ignore[operator]
        return codes, scales.double(), bits

    def shared_codes(self, node: Node) -> tuple[torch.Tensor, AffineGrid]:
        """The codes of a constant on a grid of its own, behind its dequantize node.

        Returns:
            int8 codes of its shape, and their grid.

        Raises:
            NotLowered: The constant was not quantised.
        """
        codes = codes_of_constant(node)
        if codes is None:
            raise NotLowered
        scale, zero_point, qmin, qmax = node.args[1:5]
        return self.tensor(codes), AffineGrid(float(scale), int(zero_point), int(qmin), int(qmax))  # type: ignore


def grid_of(quantize: Node, context: LoweringContext) -> Grid:
    """The grid that a quantise node of the converted graph rounds to."""
    name = quantize.target._opname  # type: ignore[union-attr]
    if name == "quantize_per_tensor":
        scale, zero_point, qmin, qmax = quantize.args[1:5]
        return AffineGrid(float(scale), int(zero_point), int(qmin), int(qmax))  # type: ignore[arg-type]
    if name == "quantize_probabilities":
        return ProbabilityGrid(bool(quantize.args[1]))
    dequantize = next(user for user in quantize.users if is_dequantize(user))
    scales, offset = (context.tensor(argument).double() for argument in dequantize.args[1:3])
    largest: Any = quantize.args[5]
    if dequantize.args[3] == 1:  # along the channels of an image
        return OffsetGrid(float(scales[0]), offset)
    base = float(scales.min())
    shift = torch.round(torch.log2(scales / base)).to(torch.uint8) if scales.numel() > 1 else None
    return ResidualGrid(base, shift, torch.int8 if largest <= 127 else torch.int16)


Rule = Callable[[LoweringContext, Node, Grid], Codes]
RULES: dict[Any, Rule] = {}


def lowers(*targets: Any) -> Callable[[Rule], Rule]:
    """Registers how a float operator whose result is quantised becomes an integer operator."""

    def register(rule: Rule) -> Rule:
        for target in targets:
            RULES[target] = rule
        return rule

    return register


_KINDS = {
    AffineGrid: "an activation",
    OffsetGrid: "an image",
    ProbabilityGrid: "attention probabilities",
    ResidualGrid: "the residual stream",
}


def require_affine(grid: Grid, what: str = "its result") -> AffineGrid:
    """The grid, which must be affine.

    Raises:
        NotLowered: It is not.
    """
    if not isinstance(grid, AffineGrid):
        raise NotLowered(
            f"{what} has the codes of {_KINDS[type(grid)]}: a LayerNorm, an attention or a function of one variable, "
            "which give those of an activation, would have to stand in front of it"
        )
    return grid


def require_residual(grid: Grid, what: str = "its result") -> ResidualGrid:
    """The grid, which must be one of the residual stream.

    Raises:
        NotLowered: It is not.
    """
    if not isinstance(grid, ResidualGrid):
        raise NotLowered(
            f"{what} has the codes of {_KINDS[type(grid)]}: it would have to be the residual stream, which begins at a "
            "patch embedding, at an input, or at a LayerNorm or a linear layer"
        )
    return grid


def output_codes(grid: Grid, channels: int) -> tuple[torch.Tensor, int, int, int]:
    """What a requantiser needs of the grid of a result: a step for each channel, float64 [C], zero point, qmin, qmax.

    Raises:
        NotLowered: It is neither an activation's nor the residual stream's.
    """
    if isinstance(grid, ResidualGrid):
        limits = torch.iinfo(grid.dtype)
        return grid.channel_scales(channels), 0, limits.min, limits.max
    out = require_affine(grid)
    return torch.full((channels,), out.scale, dtype=torch.float64), out.zero_point, out.qmin, out.qmax


__all__ = [
    "FLOAT_NAME",
    "GRID",
    "RULES",
    "SOURCE",
    "Codes",
    "LoweringContext",
    "NotLowered",
    "grid_of",
    "is_call",
    "lowers",
    "output_codes",
    "require_affine",
    "require_residual",
]
