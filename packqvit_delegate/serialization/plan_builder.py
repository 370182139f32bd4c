"""Builds a plan from an exported integer graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import flatbuffers
import torch
from executorch.exir._serialize._named_data_store import NamedDataStore
from torch._export.utils import (
    get_buffer,
    get_lifted_tensor_constant,
    get_param,
    is_buffer,
    is_lifted_tensor_constant,
    is_param,
)
from torch.export import ExportedProgram
from torch.fx import Node

import packqvit_delegate.serialization.plan_generated as fb

from ..errors import PlanError
from .constants import DATA_TYPES, ConstantWriter
from .fusion import VIEWS, Chain, Condition, find_fusions, without_views
from .names import operator_name
from .placement import Placement

Emitter = Callable[..., Any]
EMITTERS: dict[str, Emitter] = {}
FUSED_EMITTERS: dict[Chain, Emitter] = {}
FUSION_CONDITIONS: dict[Chain, Condition] = {}

_WRITES_ROWS = (
    fb.QuantizeT,
    fb.LinearT,
    fb.LayerNormT,
    fb.LookupTableT,
    fb.SelectTokensT,
    fb.HeadNormT,
    fb.RotateT,
    fb.MultiplyT,
    fb.RequantizeT,
)
"""Operators whose output may have any shape with the same rows."""


def _writes_rows(operator: Any) -> bool:
    return isinstance(operator, _WRITES_ROWS) or (isinstance(operator, fb.AttentionT) and operator.rows != -1)


def emits(name: str) -> Callable[[Emitter], Emitter]:
    """Registers how a node of `packqvit::name` becomes an operator of the plan."""

    def register(emitter: Emitter) -> Emitter:
        EMITTERS[f"packqvit::{name}"] = emitter
        return emitter

    return register


def touch(*nodes: Node) -> bool:
    """Whether there are no views between the operators of a chain."""
    return all(node.args[0] is before for before, node in itertools.pairwise(nodes))


def emits_fused(*names: str, where: Condition = touch) -> Callable[[Emitter], Emitter]:
    """Registers how a chain of nodes of `packqvit::name`, `where` that holds, becomes one operator of the plan."""

    def register(emitter: Emitter) -> Emitter:
        chain = tuple(f"packqvit::{name}" for name in names)
        FUSED_EMITTERS[chain], FUSION_CONDITIONS[chain] = emitter, where
        return emitter

    return register


class PlanBuilder:
    """Values, constants and nodes of the plan of one delegate."""

    def __init__(self, program: ExportedProgram) -> None:
        """Reads an integer graph.

        Args:
            program: The partition: packqvit operators and views; constants are its parameters and buffers.
        """
        self.program = program
        self.constants = ConstantWriter()
        self._nodes: list[fb.NodeT] = []
        self._sources: list[Node] = []
        self._values: list[fb.ValueT] = []
        self._value_of: dict[Node, int] = {}
        self._shaped: set[int] = set()
        self._elements: set[int] = set()
        self._copies: dict[tuple[int, tuple[int, ...]], int] = {}
        self._reading: list[int] = []
        self._axes: list[tuple[Any, int, int]] = []
        self._first: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._fusions = find_fusions(program.graph, FUSION_CONDITIONS)
        self._absorbed = {node for nodes in self._fusions.values() for node in nodes[:-1]}

    def build(self, store: NamedDataStore, debug_id: Callable[[tuple[Node, ...]], int]) -> bytes:
        """The serialised plan.

        Args:
            store: Takes the constants.
            debug_id: Gives the delegate debug id of nodes that are traced as one.

        Raises:
            PlanError: The graph holds what no plan can express.
        """
        self._debug_id = debug_id
        plan = fb.PlanT()
        plan.inputs, plan.outputs = [], []
        for node in self.program.graph.nodes:
            if node.op == "placeholder" and self._constant_tensor(node) is None:
                plan.inputs.append(self._new_value(node, fb.Storage.Input, len(plan.inputs)))
                self._shaped.add(plan.inputs[-1])
            elif node.op == "call_function":
                self._add_call(node)
            elif node.op == "output":
                results = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
                for index, result in enumerate(results):
                    plan.outputs.append(self._to_output(result, index))
        for table, value, from_end in self._axes:
            table.axis = len(self._values[value].shape) - from_end
        plan.values, plan.nodes = self._values, self._nodes
        plan.arenaSize = Placement(self._values, self._nodes, self._first, self._last, self.constants.constants).place()
        plan.segments = self.constants.write(store)
        plan.constants = self.constants.constants
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(plan.Pack(builder), file_identifier=b"PQVT")
        return bytes(builder.Output())

    # For emitters.

    def read(self, node: object) -> int:
        """Index of the value that an operator reads row by row: whatever shape it has, rows are the last axis.

        What a quantiser writes may have rows of any length.
        """
        if not isinstance(node, Node) or node not in self._value_of:
            raise PlanError(f"operand {node} is not computed inside the delegate")
        index = self._value_of[node]
        shape = [int(size) for size in node.meta["val"].shape]
        if index in self._elements - self._shaped and self._values[index].shape[-1:] != shape[-1:]:
            self._values[index].shape = shape
            self._shaped.add(index)
        self._reading.append(index)
        return index

    def read_shaped(self, node: Any, shape: list[int] | None = None) -> int:
        """Index of the value that an operator reads by images and tokens: with the node's shape, or `shape`.

        A view has no value of its own. What writes row by row can write in the shape that a reader wants; where two of
        them want different ones, rows are copied.
        """
        index = self.read(node)
        shape = [int(size) for size in node.meta["val"].shape] if shape is None else shape
        if self._values[index].shape != shape:
            if index in self._shaped:
                self._reading.pop()
                index = self._copied(index, shape, node)
                self._reading.append(index)
            else:
                self._values[index].shape = shape
        self._shaped.add(index)
        return index

    def constant(self, node: object, *, nibbles: bool = False) -> int:
        """Index of the constant behind an operand, -1 for None."""
        if node is None:
            return -1
        tensor = self._constant_tensor(node) if isinstance(node, Node) else None
        if tensor is None:
            raise PlanError(f"operand {node} has to be constant")
        return self.constants.add(tensor, nibbles=nibbles)

    def is_constant(self, node: Node) -> bool:
        """Whether an operand is a constant."""
        return self._constant_tensor(node) is not None

    def constant_value(self, node: object) -> torch.Tensor:
        """The tensor behind a constant operand."""
        tensor = self._constant_tensor(node) if isinstance(node, Node) else None
        if tensor is None:
            raise PlanError(f"operand {node} has to be constant")
        return tensor

    def set_axis(self, table: Any, node: Any, axis: Any) -> None:
        """Gives an operator the axis of an operand, in the shape that the value will have which it is a view of.

        Views keep the axes counted from the end.
        """
        self._axes.append((table, self._value_of[node], node.meta["val"].dim() - int(axis)))

    # Details.

    def _constant_tensor(self, node: Node) -> torch.Tensor | None:
        for test, get in (
            (is_param, get_param),
            (is_buffer, get_buffer),
            (is_lifted_tensor_constant, get_lifted_tensor_constant),
        ):
            if test(self.program, node):
                return get(self.program, node)
        return None

    def _add_call(self, node: Node) -> None:
        name = operator_name(node)
        if node in self._absorbed:
            return
        if name in VIEWS:
            self._value_of[node] = self.read(node.args[0])
            self._reading.clear()
            return
        if name not in EMITTERS:
            raise PlanError(f"operator {name or node.target} has no place in a plan")
        nodes = without_views(self._fusions.get(node, (node,)))
        emitter = FUSED_EMITTERS[tuple(map(operator_name, nodes))] if len(nodes) > 1 else EMITTERS[name]
        operator = emitter(self, *nodes)
        output = self._new_value(node, fb.Storage.Arena, 0)
        if not _writes_rows(operator):
            self._shaped.add(output)
        if isinstance(operator, fb.QuantizeT):
            self._elements.add(output)
        wrapped = self._node(operator, output, node.name)
        if isinstance(operator, fb.AttentionT):  # the runtime times scores and softmax by themselves
            softmax = next(i for i, part in enumerate(nodes) if operator_name(part) == "packqvit::softmax")
            parts, nodes = (nodes[:softmax], (nodes[softmax],)), nodes[softmax + 1 :]
            wrapped.parts = [self._part(part[0], self._debug_id(part)) for part in parts]
            wrapped.name = nodes[0].name
        wrapped.debugId = self._debug_id(nodes)
        self._nodes.append(wrapped)

    def _node(self, operator: Any, output: int, name: str) -> fb.NodeT:
        """A node for an operator whose operands were just read."""
        operator.output = output
        position = len(self._nodes)
        self._first[output] = self._last[output] = position
        self._last.update(dict.fromkeys(self._reading, position))
        self._reading.clear()
        wrapped = fb.NodeT()
        wrapped.op, wrapped.name = operator, name
        wrapped.opType = getattr(fb.Operator, type(operator).__name__.removesuffix("T"))
        return wrapped

    def _copied(self, index: int, shape: list[int], node: Node) -> int:
        """A copy of a value [B, N, C] in another shape."""
        key = index, tuple(shape)
        if key not in self._copies:
            source = self._values[index]
            if len(source.shape) != 3:
                raise PlanError(f"{node.name} is read as {shape}, but has the shape {source.shape}, which is fixed")
            copy = fb.SelectTokensT()
            copy.x, copy.index = index, list(range(source.shape[1]))
            waiting, self._reading = self._reading, [index]
            stored = self._value_of[node]
            self._copies[key] = self._new_value(node, fb.Storage.Arena, 0)
            self._value_of[node] = stored
            wrapped = self._node(copy, self._copies[key], node.name)
            wrapped.debugId = self._debug_id((node,))
            self._nodes.append(wrapped)
            self._reading = waiting
        return self._copies[key]

    @staticmethod
    def _part(node: Node, debug_id: int) -> fb.PartT:
        part = fb.PartT()
        part.name, part.debugId = node.name, debug_id
        return part

    def _new_value(self, node: Node, storage: int, location: int) -> int:
        value = fb.ValueT()
        example = node.meta["val"]
        if example.dtype not in DATA_TYPES:
            raise PlanError(f"{node.name} has the type {example.dtype}, which no operator takes")
        value.type, value.shape = DATA_TYPES[example.dtype], [int(size) for size in example.shape]
        value.storage, value.location, value.name = storage, location, node.name
        self._value_of[node] = len(self._values)
        self._values.append(value)
        return self._value_of[node]

    def _to_output(self, node: Node, index: int) -> int:
        value_index = self._value_of.get(node)
        if value_index is None:
            raise PlanError(f"output {node} is not computed inside the delegate")
        shape = [int(size) for size in node.meta["val"].shape]
        if value_index in self._shaped and self._values[value_index].shape != shape:
            value_index = self._copied(value_index, shape, node)
        value = self._values[value_index]
        if value.storage != fb.Storage.Arena:
            raise PlanError(f"{node} is an input, or two outputs, of the delegate at once")
        value.storage, value.location, value.shape = fb.Storage.Output, index, shape
        self._shaped.add(value_index)
        return value_index
