"""What could have 8 bits instead of 4, and what that costs."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Iterator
from typing import Any, Literal

from torch.fx import GraphModule, Node

from ..config import LayerOverride
from ..passes.graph import aten, is_call, shape_of
from ..passes.patterns import POOLINGS, UNARY_FUNCTIONS, layer_name
from ..quantizer.observers import CodeObserver, MinMSEObserver, WeightObserver

Field = Literal["weight_bits", "activation_bits"]

_PER_TOKEN = (aten.linear.default, aten.layer_norm.default, aten.add.Tensor, *UNARY_FUNCTIONS)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A layer that could have 8 bits.

    Attributes:
        layer: Its name, as QuantizationConfig.overrides has it.
        field: Its weights or its output.
        nodes: Observers in the prepared graph that would change.
        extra_bytes: How much larger the weights would be; nothing for activations.
        macs: Multiply-accumulates of one image that would read 8-bit instead of 4-bit activations; none for weights.
    """

    layer: str
    field: Field
    nodes: tuple[Node, ...]
    extra_bytes: int
    macs: int

    @property
    def override(self) -> tuple[str, LayerOverride]:
        """Key and value for QuantizationConfig.overrides; the name is made a pattern that matches only itself."""
        return glob.escape(self.layer), LayerOverride(**{self.field: 8})


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a prepared model, for one image.

    Attributes:
        weight_bytes: Packed weights, without scales and biases.
        macs: Multiply-accumulates of its linear layers inside the blocks: those whose input could have 4 bits.
        wide_macs: Those of them that read 8-bit activations.
    """

    weight_bytes: int
    macs: int
    wide_macs: int


def observer_of(prepared: GraphModule, node: Any) -> CodeObserver | None:
    """The observer that a node calls, or None."""
    module: Any = prepared.get_submodule(str(node.target)) if isinstance(node, Node) and node.op == "call_module" else 0
    return module if isinstance(module, CodeObserver) else None


def choices(reference: GraphModule, prepared: GraphModule) -> list[Choice]:
    """All layers with 4 bits, in the order of the graph; layers with one name are one choice.

    Args:
        reference: Float graph.
        prepared: Made from it, with observers.
    """
    values = {node.name: node for node in reference.graph.nodes}
    found: dict[tuple[str, Field], Choice] = {}
    for node in prepared.graph.nodes:
        choice = _weight_choice(prepared, node) or _activation_choice(values, prepared, node)
        if choice is None:
            continue
        key = choice.layer, choice.field
        before = found.get(key)
        if before is not None:
            choice = dataclasses.replace(
                choice,
                nodes=(*before.nodes, *choice.nodes),
                extra_bytes=before.extra_bytes + choice.extra_bytes,
                macs=before.macs + choice.macs,
            )
        found[key] = choice
    positions = {node: position for position, node in enumerate(prepared.graph.nodes)}
    return sorted(found.values(), key=lambda choice: min(positions[next(iter(n.users))] for n in choice.nodes))


def size_of(reference: GraphModule, prepared: GraphModule) -> Size:
    """Bytes of all weights, and multiply-accumulates by the width of the activations that they read."""
    values = {node.name: node for node in reference.graph.nodes}
    weight_bytes = macs = wide = 0
    for node in prepared.graph.nodes:
        observer = observer_of(prepared, node)
        if isinstance(observer, WeightObserver):
            weight_bytes += math.prod(shape_of(_source(node))) * (8 if observer.quant_max > 7 else 4) // 8
        elif isinstance(observer, MinMSEObserver) and not _feeds_output(value := values[_source(node).name]):
            count = _macs(value)
            macs += count
            wide += count if observer.quant_max > 7 else 0
    return Size(weight_bytes, macs, wide)


def _weight_choice(prepared: GraphModule, node: Node) -> Choice | None:
    observer = observer_of(prepared, node)
    if not isinstance(observer, WeightObserver) or observer.quant_max > 7:
        return None
    (linear,) = node.users
    weights = math.prod(shape_of(_source(node)))
    return Choice(layer_name(linear), "weight_bits", (node,), weights // 2, 0)


def _activation_choice(values: dict[str, Node], prepared: GraphModule, node: Node) -> Choice | None:
    observer = observer_of(prepared, node)
    if not isinstance(observer, MinMSEObserver) or observer.quant_max > 7:
        return None
    value = values[_source(node).name]
    if not any(_linears(value)):  # q, k, v: attention_bits
        return None
    return Choice(layer_name(value), "activation_bits", (node,), 0, _macs(value))


def _source(observer: Node) -> Node:
    source = observer.args[0]
    assert isinstance(source, Node)
    return source


def _linears(value: Node) -> Iterator[Node]:
    for user in value.users:
        if is_call(user, aten.linear.default):
            yield user
        elif is_call(user, aten.select.int, aten.slice.Tensor, *POOLINGS):
            yield from _linears(user)


def _feeds_output(value: Node) -> bool:
    """Whether a value is the classifier's input, whose width is `edge_bits`."""
    return any(user.op == "output" for linear in _linears(value) for user in linear.users)


def _macs(value: Node) -> int:
    """Multiply-accumulates of the linears that read a value, for one image."""
    return sum(_tokens(linear) * math.prod(shape_of(linear.args[1])) for linear in _linears(value))


def _tokens(node: Node) -> int:
    """For how many tokens a value is computed: in the last block it may be the class token alone."""
    shape = shape_of(node)
    if len(shape) < 3:
        return 1
    wanted = 0
    for user in node.users:
        if wanted == shape[1]:
            break
        if is_call(user, aten.select.int) and user.args[1] in (1, -2):
            wanted = max(wanted, 1)
        elif is_call(user, aten.slice.Tensor):
            wanted = max(wanted, shape_of(user)[1])
        elif is_call(user, *_PER_TOKEN):
            wanted = max(wanted, _tokens(user))
        else:
            return shape[1]
    return wanted or shape[1]
