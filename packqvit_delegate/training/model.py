"""A calibrated model as an nn.Module whose weights, biases, norms and grids learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..answers import answers_of
from ..batching import ImageAxes
from ..errors import PackQViTError
from ..passes.graph import aten, constant, is_call, set_constant
from ..passes.originals import forget_original
from ..passes.patterns import layer_name
from ..quantizer.observers import CodeObserver
from .grids import LearnedAffine, LearnedGrid, LearnedWeight, WideResidual, learned_grid
from .integer_values import IntegerPass, IntegerValues

_TRAINED: dict[object, tuple[int, ...]] = {
    aten.linear.default: (1, 2),
    aten.conv2d.default: (1, 2),
    aten.layer_norm.default: (2, 3),
}
"""Arguments that are trained where they are constants; weights with a grid are LearnedWeights instead."""


class TrainableModel(nn.Module):
    """A prepared and calibrated graph that trains like any PyTorch module, on any batch size.

    Its forward rounds weights and activations to the grids of the integer program, with straight-through gradients.
    Parameters are the latent weights and the logarithms of their steps (`LearnedWeight`), the logarithms of activation
    scales (`LearnedAffine`, `LearnedChannelShifts`), biases, and the weights of LayerNorms. The embedding of positions
    and of the class token, and zero points, stay.

    With `integer_functions` the values are those of the integer operators, requantisation, softmax, LayerNorm and
    tables included, and the gradients those of the float ones: the output is, bit for bit, that of the integer graph
    that the present parameters would give (training/integer_values.py). It takes about twice the time.

    Attributes:
        answers: What its outputs are.
        integer_functions: Whether values are those of the integer operators; may be set at any time.

    `commit` writes what was learned into the prepared graph, for torchao's convert_pt2e and `lower_to_integer`.
    """

    def __init__(self, prepared: GraphModule, batch_size: int = 1, integer_functions: bool = False) -> None:
        """Takes over a graph.

        Args:
            prepared: Of prepare_pt2e with PackQViTQuantizer, then calibrated. `commit` changes it.
            batch_size: Images that it was exported for.
            integer_functions: See the class.

        Raises:
            PackQViTError: An observer has no counterpart that trains.
        """
        super().__init__()
        self.answers = answers_of(prepared)
        self._prepared = [prepared]  # a list hides it from nn.Module: its weights are not trained
        self._axes = ImageAxes(prepared, batch_size)
        self._nodes: list[Node] = list(prepared.graph.nodes)
        self.grids = nn.ModuleDict()
        self.learned = nn.ParameterDict()
        trained = _trained_constants(self._nodes)
        for node in self._nodes:
            if node.op == "get_attr":
                value = constant(prepared, node).clone()
                if node in trained:
                    self.learned[_key(node)] = nn.Parameter(value)
                else:
                    self.register_buffer(_buffer(node), value, persistent=False)
            elif node.op == "call_module" and node.users:
                observer = prepared.get_submodule(str(node.target))
                assert isinstance(observer, CodeObserver)
                self.grids[node.name] = learned_grid(observer)
        self._last_use = {operand: node for node in self._nodes for operand in node.all_input_nodes}
        self.integer_functions = integer_functions
        self._integer: list[IntegerValues] = []

    def forward(self, *inputs: torch.Tensor, with_norms: bool = False) -> Any:
        """The outputs of the graph: a tensor where there is one, else a tuple.

        Args:
            *inputs: In the order of the model's arguments; float32 [B, ...], B as large as memory allows.
            with_norms: Returns what `outputs_and_norms` does, for wrappers that only know `forward`.
        """
        return self.outputs_and_norms(*inputs) if with_norms else self._run(inputs, None)

    def outputs_and_norms(self, *inputs: torch.Tensor) -> tuple[Any, list[torch.Tensor]]:
        """The outputs, and what every LayerNorm gives before it is rounded, float32 [B, ..., C], in graph order.

        The same model without observers gives the same number of them, so that the two can be compared.

        Args:
            *inputs: As for `forward`.
        """
        norms: dict[Node, list[torch.Tensor]] = {}

        def look(node: Node, value: Any) -> None:
            if is_call(node, aten.layer_norm.default):
                norms.setdefault(node, []).append(value)

        return self._run(inputs, look), [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in norms.values()]

    def leave_unrounded(self, share: float, generator: torch.Generator) -> None:
        """Leaves a part of the activations of less than 8 bits as they are in training mode, and only clips them.

        A model that trains with some of its rounding errors absent settles where it hardly hangs on them.

        Source: Wei et al., "QDrop", ICLR 2022; here a draw for each token and tensor instead of each value.

        Args:
            share: Of the tokens, in [0, 1]; 0: all are rounded.
            generator: Draws them; on the CPU.
        """
        for grid in self.grids.values():
            if isinstance(grid, LearnedAffine) and grid.narrow:
                grid.unrounded, grid.generator = share, generator

    def first_non_finite(self, *inputs: torch.Tensor) -> str | None:
        """Where NaN or infinity begins: the name of a module of the model or of an operator; None: nowhere.

        Args:
            *inputs: As for `forward`.
        """
        found: list[str] = []

        def look(node: Node, value: Any) -> None:
            if isinstance(value, torch.Tensor) and not found and not bool(torch.isfinite(value).all()):
                found.append(str(node.target) if node.op == "get_attr" else layer_name(node))

        with torch.no_grad():
            self._run(inputs, look, integer=False)
        return found[0] if found else None

    def _run(
        self,
        inputs: tuple[torch.Tensor, ...],
        look: Callable[[Node, Any], None] | None,
        integer: bool | None = None,
    ) -> Any:
        parts = [self._run_part(part, look, integer) for part in self._axes.cut([inputs])]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _run_part(
        self, inputs: tuple[torch.Tensor, ...], look: Callable[[Node, Any], None] | None, integer: bool | None
    ) -> Any:
        values: dict[Node, Any] = {}
        program = self._begin(inputs) if (self.integer_functions if integer is None else integer) else None
        waiting = iter(inputs)
        for node in self._nodes:
            if node.op == "placeholder":
                values[node] = next(waiting)
            elif node.op == "output":
                outputs = map_arg(node.args[0], values.__getitem__)
                return outputs[0] if isinstance(outputs, (tuple, list)) and len(outputs) == 1 else outputs
            elif node.op == "call_module" and not node.users:
                continue  # torch.export's check of the input shapes, which are not those of a training batch
            else:
                values[node] = self._value(node, values, inputs[0].shape[0])
                if program is not None:
                    values[node] = self._integer_value(program, node, values)
            if look is not None:
                look(node, values.get(node))
            for operand in node.all_input_nodes:
                if self._last_use[operand] is node:
                    values.pop(operand, None)
        raise AssertionError("a graph without an output")

    def _value(self, node: Node, values: dict[Node, Any], images: int) -> Any:
        if node.op == "get_attr":
            return self.learned[_key(node)] if _key(node) in self.learned else self.get_buffer(_buffer(node))
        operands: Any = map_arg((node.args, node.kwargs), values.__getitem__)
        args, kwargs = operands
        if node.op == "call_module":
            return self.grids[node.name](*args)
        assert callable(node.target)
        return node.target(*self._axes.arguments(node, args, images), **kwargs)

    def _begin(self, inputs: tuple[torch.Tensor, ...]) -> IntegerPass:
        if not self._integer:
            self._integer.append(IntegerValues(self._prepared[0], self._axes))
        for grid in self.grids.values():
            if isinstance(grid, WideResidual):
                grid.follows = True  # while weights move, the stream may outgrow what calibration saw
        return self._integer[0].begin(inputs, dict(self.grids.items()), self._learned_constant)

    def _integer_value(self, program: IntegerPass, node: Node, values: dict[Node, Any]) -> Any:
        value = values[node]
        if node.op == "call_module":
            source, grid = node.args[0], self.grids[node.name]
            assert isinstance(source, Node) and isinstance(grid, LearnedGrid)
            if source.op == "get_attr":
                return value
            codes = grid.integer_grid()
            assert codes is not None
            return program.rounded(source.name, values[source], codes, value)
        program.computed(node.name, value)
        if program.moves(node.name):
            program.moved(node.name)
        elif program.stays_float(node.name):
            return program.float_output(node.name, value)
        return value

    def _learned_constant(self, node: Node) -> torch.Tensor | None:
        key = _key(node)
        return self.learned[key] if key in self.learned else None

    @torch.no_grad()
    def commit(self, batches: Sequence[torch.Tensor | tuple[torch.Tensor, ...]]) -> GraphModule:
        """Writes what was learned into the prepared graph.

        Args:
            batches: Inputs, float32 [B, ...], or tuples of them, over which the range of an int16 residual is taken
                again; none: it stays.

        Returns:
            The graph that this module was made from, changed.

        Raises:
            PackQViTError: A parameter is not finite.
        """
        for name, parameter in self.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise PackQViTError(f"training left NaN or infinity in {name}; lower the learning rates")
        prepared = self._prepared[0]
        self._observe_residuals(batches)
        for grid in self.grids.values():
            assert isinstance(grid, LearnedGrid)
            grid.commit()
        for node in self._nodes:
            forget_original(node)  # an operator that stays in float has the values that it was trained with
            if node.op == "get_attr" and _key(node) in self.learned:
                set_constant(prepared, node, self.learned[_key(node)].detach().cpu())
            elif node.op == "call_module" and node.name in self.grids and self._holds_weight(node):
                source = node.args[0]
                assert isinstance(source, Node)
                set_constant(prepared, source, self.grids[node.name](None).cpu())
        return prepared

    def _holds_weight(self, node: Node) -> bool:
        return isinstance(self.grids[node.name], LearnedWeight)

    def _observe_residuals(self, batches: Sequence[torch.Tensor | tuple[torch.Tensor, ...]]) -> None:
        residuals = [grid for grid in self.grids.values() if isinstance(grid, WideResidual)]
        if not residuals or not batches:
            return
        for grid in residuals:
            grid.forget()
            grid.observes = True
        device = next(self.parameters()).device
        for batch in batches:
            tensors = batch if isinstance(batch, tuple) else (batch,)
            self._run(tuple(tensor.to(device) for tensor in tensors), None, integer=False)
        for grid in residuals:
            grid.observes = False


def _joined(parts: list[Any]) -> Any:
    """The outputs of several parts of a batch, one behind the other."""
    if isinstance(parts[0], (tuple, list)):
        return tuple(_joined(list(each)) for each in zip(*parts, strict=True))
    return torch.cat(parts)


def _key(node: Node) -> str:
    """A name for nn.Module, the same for all nodes that read one tensor."""
    return str(node.target).replace(".", "__")


def _buffer(node: Node) -> str:
    return f"constant_{_key(node)}"


def _trained_constants(nodes: list[Node]) -> set[Node]:
    found: set[Node] = set()
    for node in nodes:
        for index in _TRAINED.get(node.target, ()) if node.op == "call_function" else ():
            operand = node.args[index] if len(node.args) > index else None
            if isinstance(operand, Node) and operand.op == "get_attr":
                found.add(operand)
    return found
