"""The values of the integer operators, computed while a model trains: the lowering's own rules, run on tensors.

`lower_to_integer` asks a rule for each float operator which integer operator takes its place, and with which constants.
Here the same rules are asked with a context that computes instead of building a graph. So there is no second
description of the integer arithmetic that could differ from what is exported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from ..batching import ImageAxes
from ..grids import AffineGrid, Grid, values_of
from ..passes.codes import is_dequantize, is_quantize
from ..passes.graph import aten, constant, find, is_call, is_constant, shape_of
from ..passes.integer.context import RULES, Codes, LoweringContext, NotLowered
from ..passes.integer.outputs import dequantized
from ..passes.integer.token_rules import code_of_zero, moves_tokens, side_by_side
from ..passes.layout import PADS, trace
from ..passes.lower_to_integer import behind_reshapes, float_output, quantize_float, read_by_quantizer
from ..passes.propagate_values import propagate_values
from .grids import LearnedAffine, LearnedWeight


class _Substitute(torch.autograd.Function):
    """The value of one tensor, the gradient of another."""

    @staticmethod
    def forward(ctx: Any, differentiable: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


class IntegerValues:
    """The converted graph of a model, whose rules are asked anew in every forward pass.

    Nodes of the prepared graph and of the converted one have the same names.
    """

    def __init__(self, prepared: GraphModule, axes: ImageAxes) -> None:
        """Converts a copy.

        Args:
            prepared: As TrainableModel's.
            axes: Where the images stand in it.
        """
        self._module = propagate_values(convert_pt2e(copy.deepcopy(prepared)))
        self._axes = axes
        self._twins = {node.name: node for node in prepared.graph.nodes}
        self._nodes = {node.name: node for node in self._module.graph.nodes}
        self._weights = {
            self._nodes[node.name].args[1]: node.args[1].name
            for node in prepared.graph.nodes
            if is_call(node, aten.linear.default, aten.conv2d.default)
            and isinstance(node.args[1], Node)
            and node.args[1].op == "call_module"
        }
        self._shared = {
            self._nodes[node.name].args[0]: (observed.name, constant(prepared, observed.args[0]))
            for node in prepared.graph.nodes
            if is_call(node, aten.matmul.default)
            and (observed := node.args[0]).op == "call_module"
            and is_constant(observed.args[0])
        }

        self._float_linears = {node.name for node in find(self._module, aten.linear.default) if _stays_float(node)}
        self._moves = {node.name for node in self._module.graph.nodes if moves_tokens(node)}
        quantized = {node.args[0] for node in self._module.graph.nodes if is_quantize(node)}
        read = {read_by_quantizer(self._module, v).source for v in quantized if v.op == "call_function"}
        self._sources = (read | set(map(behind_reshapes, read))) - quantized

    def begin(
        self,
        inputs: tuple[torch.Tensor, ...],
        grids: Mapping[str, torch.nn.Module],
        learned: Callable[[Node], torch.Tensor | None],
    ) -> IntegerPass:
        """Starts a forward pass.

        Args:
            inputs: Of the model.
            grids: The model's, by the names of the observers' nodes.
            learned: What is learned in the place of a get_attr node's tensor; None: nothing.
        """
        weights = {node: grids[name] for node, name in self._weights.items()}
        shared = {node: (grids[name], value) for node, (name, value) in self._shared.items()}
        context = _EagerContext(self._module, weights, shared, learned, inputs, self._axes, self._twins)
        return IntegerPass(context, self._nodes, self._float_linears, self._moves, self._sources)


class IntegerPass:
    """One forward pass: the codes of all values so far."""

    def __init__(
        self,
        context: _EagerContext,
        nodes: Mapping[str, Node],
        float_linears: set[str],
        moves: set[str],
        sources: set[Node],
    ) -> None:
        """Starts with no codes."""
        self._context, self._nodes, self._float_linears, self._moves = context, nodes, float_linears, moves
        self._sources = sources

    def computed(self, name: str, value: torch.Tensor) -> None:
        """Takes notice of a float value, which a quantiser may read (`quantize_float`)."""
        node = self._nodes.get(name)
        if node in self._sources:
            self._context.float_values[node] = value.detach()

    def moves(self, name: str) -> bool:
        """Whether a node moves whole tokens: codes follow it, see `moved`."""
        return name in self._moves

    def stays_float(self, name: str) -> bool:
        """Whether a node is a linear whose result gets no codes: `float_output` is to be asked for it."""
        return name in self._float_linears

    def rounded(self, name: str, value: torch.Tensor, grid: Grid, simulated: torch.Tensor) -> torch.Tensor:
        """What the integer program has in the place of a value that gets codes.

        Args:
            name: Of the value's node.
            value: float32, before it is rounded.
            grid: Of its codes.
            simulated: float32, the value rounded in float arithmetic.

        Returns:
            float32 of the same shape, with the gradient of `simulated`.
        """
        node, context = self._nodes[name], self._context
        with _exact(value):
            codes = self._ask(node, grid)
            if codes is None:
                context.float_values[node] = value.detach()
                codes = quantize_float(context, node, grid)
                del context.float_values[node]
            if codes is None:
                return simulated
            context.codes[node] = codes
            return _substitute(simulated, values_of(_tensor(codes), codes.grid))

    def moved(self, name: str) -> None:
        """Lets codes follow a value through an operator that only moves it."""
        node, context = self._nodes[name], self._context
        base, chain = trace(node)
        codes = context.find_codes(base)
        if codes is not None:
            moved = _tensor(codes)
            for move in chain:
                moved = context.moved(move, moved, code_of_zero(codes.grid))
            joined = shape_of(node)[-1] // shape_of(base)[-1]
            context.codes[node] = Codes(moved, side_by_side(codes.grid, joined))

    def float_output(self, name: str, simulated: torch.Tensor) -> torch.Tensor:
        """What the integer program has in the place of a linear's result that stays in float.

        Args:
            name: Of the linear's node.
            simulated: float32, the result of float arithmetic.

        Returns:
            float32 of the same shape, with the gradient of `simulated`.
        """
        try:
            with _exact(simulated):
                node = self._nodes[name]
                return _substitute(simulated, dequantized(self._context, float_output(self._context, node), node))
        except NotLowered:
            return simulated

    def _ask(self, node: Node, grid: Grid) -> Codes | None:
        rule = RULES.get(node.target)
        try:
            return None if rule is None else rule(self._context, node, grid)
        except NotLowered:
            return None


class _EagerContext(LoweringContext):
    """A LoweringContext whose operators are computed at once: its `Codes.node` is a tensor of codes."""

    def __init__(
        self,
        module: GraphModule,
        weights: Mapping[Any, torch.nn.Module],
        shared: Mapping[Any, tuple[torch.nn.Module, torch.Tensor]],
        learned: Callable[[Node], torch.Tensor | None],
        inputs: tuple[torch.Tensor, ...],
        axes: ImageAxes,
        twins: Mapping[str, Node],
    ) -> None:
        super().__init__(module)
        self._weights, self._shared, self._learned = weights, shared, learned
        self._axes, self._twins = axes, twins
        placeholders = (node for node in module.graph.nodes if node.op == "placeholder")
        self._inputs = dict(zip(placeholders, inputs, strict=True))
        self._device, self._images = inputs[0].device, inputs[0].shape[0]
        self.float_values: dict[Node, torch.Tensor] = {}

    def constant(self, name: str, value: torch.Tensor) -> Any:
        """The constant itself."""
        return value.to(self._device)

    def tensor(self, node: object) -> torch.Tensor:
        """What a get_attr node holds or, where that is learned, its present value; on the CPU."""
        value = self._learned(node) if isinstance(node, Node) else None
        return super().tensor(node) if value is None else value.detach().cpu()

    def weight(self, node: object) -> tuple[torch.Tensor, torch.Tensor, int]:
        """The present codes of a weight and their scales; on the CPU."""
        grid = self._weights.get(node) if is_dequantize(node) else None
        if not isinstance(grid, LearnedWeight):
            raise NotLowered("its weight is not quantised")
        scales = grid.log_scale.detach().exp().flatten().cpu()
        return grid.codes().to(torch.int8).cpu(), scales.double(), 4 if grid.qmax <= 7 else 8

    def shared_codes(self, node: Node) -> tuple[torch.Tensor, AffineGrid]:
        """The codes that a constant has on its present grid."""
        learned, value = self._shared[node]
        assert isinstance(learned, LearnedAffine)
        grid = learned.integer_grid()
        numbers = (grid.scale, grid.zero_point, grid.qmin, grid.qmax)
        return torch.ops.quantized_decomposed.quantize_per_tensor(value, *numbers, torch.int8), grid

    def call(self, target: Any, args: tuple, source: Node) -> Any:
        """The result of an operator."""
        if target is aten.reshape.default:
            args = (args[0], self._axes.sizes(self._twins[source.name], args[1], self._images))
        return target(*(self._value(argument) for argument in args))

    def moved(self, node: Node, codes: torch.Tensor, zero: int) -> torch.Tensor:
        """Codes behind an operator that moves them: what it does to any tensor. The zeros of a pad have a code too."""
        if is_call(node, *PADS):
            return torch.nn.functional.pad(codes, node.args[1], value=zero)  # type: ignore[arg-type]
        operands = (self.tensor(a).to(self._device) if is_constant(a) else a for a in node.args[1:])
        args = self._axes.arguments(self._twins[node.name], (codes, *operands), self._images)
        result: torch.Tensor = node.target(*args, **node.kwargs)  # type: ignore[operator]
        return result

    def _value(self, argument: Any) -> Any:
        """Codes as they are; the value of a float node in front of a quantiser, which only quantize_float asks for."""
        if not isinstance(argument, Node):
            return argument
        if argument in self._inputs:
            return self._inputs[argument]
        return self.float_values[argument]


def _stays_float(linear: Node) -> bool:
    """Whether neither a linear's result gets codes nor the sum that it is part of."""
    users = [after for user in linear.users for after in (user.users if is_call(user, aten.add.Tensor) else [user])]
    return not any(is_quantize(user) for user in users)


def _tensor(value: Codes | Any) -> torch.Tensor:
    return value.node if isinstance(value, Codes) else value


def _substitute(simulated: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    result: torch.Tensor = _Substitute.apply(simulated, value.reshape(simulated.shape))
    return result


def _exact(value: torch.Tensor) -> torch.autocast:
    """Integer products go through the float BLAS, which autocast would make inexact."""
    return torch.autocast(value.device.type, enabled=False)
