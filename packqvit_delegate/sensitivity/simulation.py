"""A calibrated model in float arithmetic on its grids, with any choice of layers at 8 instead of 4 bits."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from ..answers import answers_of, losses, outputs_of
from ..batching import ImageAxes
from ..calibration.batches import Batches
from ..config import INNER_PRODUCT_LEVELS
from ..passes.graph import aten, constant, is_call
from ..progress import Progress, silent
from ..quantizer.observers import MinMSEObserver, WeightObserver
from .streams import Steps, computed
from .widths import Choice, observer_of


class Simulation:
    """How far the outputs of a calibrated model, or of parts of it, are from the float model's.

    Activations are rounded to the grids that calibration decided, and weights are those that it rounded. A layer that
    is raised to 8 bits gets a grid of its own from the same sample, and its float weights rounded to 8 bits.
    """

    def __init__(self, reference: GraphModule, prepared: GraphModule, images: Batches) -> None:
        """Runs the float model.

        Args:
            reference: The float graph that `prepared` was made from.
            prepared: After calibration.
            images: All of them are held in memory, together with the largest activations of one block.
        """
        self._prepared, self._reference = prepared, reference
        self._size, self._chunks = images.size, images.chunks()
        self._axes = {module: ImageAxes(module, images.size) for module in (reference, prepared)}
        self._wide: dict[Node, Any] = {}
        self._float_nodes = {node.name: node for node in reference.graph.nodes}
        self._answers, self._targets = answers_of(reference), self._float_outputs()

    @torch.no_grad()
    def loss(self, raised: Iterable[Choice] = ()) -> float:
        """Mean loss over the images with some layers at 8 bits; see `answers.losses`."""
        changed = frozenset(node for choice in raised for node in choice.nodes)
        stream = self._steps(self._prepared)
        for node in computed(self._prepared):
            self._step(stream, node, changed)
        return self._mean_loss(_outputs(stream, self._prepared))

    @torch.no_grad()
    def losses_alone(self, each: Sequence[Choice], progress: Progress | None = None) -> dict[Choice, float]:
        """The loss of the float model with a single layer at 4 bits, for each of some.

        Against the float model the loss of one layer stands out; beside all others at 4 bits it drowns in what any
        change does to their rounding. All of them are measured in one go through the graph: what is before a layer is
        computed once.
        """
        narrow = {choice: self._narrow(choice) for choice in each}
        nodes = computed(self._reference)
        first = {choice: min(nodes.index(node) for node in narrow[choice]) for choice in each}
        stream, done = self._steps(self._reference), 0
        found: dict[Choice, float] = {}
        ordered = sorted(each, key=first.__getitem__)
        for choice in (progress or silent)(ordered, "trying layers", len(ordered)):
            for node in nodes[done : first[choice]]:
                self._float_step(stream, node, {})
            done, alone = first[choice], stream.fork()
            for node in nodes[done:]:
                self._float_step(alone, node, narrow[choice])
            found[choice] = self._mean_loss(_outputs(alone, self._reference))
        return {choice: found[choice] for choice in each}

    def _steps(self, module: GraphModule) -> Steps:
        return Steps(module, self._chunks, self._size, self._axes[module])

    def _narrow(self, choice: Choice) -> dict[Node, Any]:
        """The float graph's nodes that a layer at 4 bits changes, and how."""
        changes: dict[Node, Any] = {}
        for node in choice.nodes:
            observer, source = observer_of(self._prepared, node), node.args[0]
            assert observer is not None and isinstance(source, Node)
            if isinstance(observer, WeightObserver):
                (linear,) = node.users
                weight = observer.fake_quantize(constant(self._prepared, source))
                bias = constant(self._prepared, linear.args[2]) if len(linear.args) > 2 else None
                changes[self._float_nodes[linear.name]] = (weight, bias)
            else:
                changes[self._float_nodes[source.name]] = observer
        return changes

    def _float_step(self, stream: Steps, node: Node, narrow: dict[Node, Any]) -> None:
        change = narrow.get(node)
        if isinstance(change, tuple):
            source = node.args[0]
            assert isinstance(source, Node)
            stream[node] = [nn.functional.linear(x, *change) for x in stream[source]]
        else:
            stream.run(node)
            if change is not None:
                stream[node] = [change.fake_quantize(value) for value in stream[node]]
        stream.release(node)

    def _mean_loss(self, outputs: Sequence[torch.Tensor]) -> float:
        return float(losses(outputs, self._targets, self._answers).double().mean())

    def _step(self, stream: Steps, node: Node, changed: frozenset[Node]) -> None:
        observer = observer_of(self._prepared, node)
        if observer is None:
            weight = node.args[1] if is_call(node, aten.linear.default) else None
            if isinstance(weight, Node) and weight in changed:
                stream[node] = self._wide_linear(stream, node, weight)
            else:
                stream.run(node)
        else:
            source = node.args[0]
            assert isinstance(source, Node)
            if isinstance(observer, WeightObserver):
                stream[node] = observer.fake_quantize(stream[source][0])
            else:
                grid = self._wide_grid(node, observer) if node in changed else observer
                stream[node] = [grid.fake_quantize(value) for value in stream[source]]
        stream.release(node)

    def _wide_linear(self, stream: Steps, linear: Node, observer: Node) -> list[torch.Tensor]:
        """A linear with 8-bit weights, and with a bias that no longer makes up for 4-bit ones."""
        source = linear.args[0]
        assert isinstance(source, Node)
        twin = self._float_nodes[linear.name]
        bias = constant(self._reference, twin.args[2]) if len(twin.args) > 2 else None
        weight = self._wide_weight(observer)
        return [nn.functional.linear(x, weight, bias) for x in stream[source]]

    def _wide_weight(self, node: Node) -> torch.Tensor:
        """The float weights behind a weight observer, rounded to 8 bits."""
        if node not in self._wide:
            (linear,) = node.users
            weight = constant(self._reference, self._float_nodes[linear.name].args[1])
            observer = WeightObserver(quant_min=-127, quant_max=127)
            self._wide[node] = observer.fake_quantize(observer(weight))
        return self._wide[node]

    def _wide_grid(self, node: Node, observer: MinMSEObserver | Any) -> MinMSEObserver:
        """The grid that an activation observer would choose at 8 bits."""
        if node not in self._wide:
            wide = copy.copy(observer)
            wide.quant_min, wide.quant_max = -(INNER_PRODUCT_LEVELS // 2), (INNER_PRODUCT_LEVELS - 1) // 2
            wide._chosen, wide._fixed = None, False
            self._wide[node] = wide
        return self._wide[node]

    @torch.no_grad()
    def _float_outputs(self) -> list[torch.Tensor]:
        stream = self._steps(self._reference)
        for node in computed(self._reference):
            stream.run(node)
            stream.release(node)
        return _outputs(stream, self._reference)


def _outputs(stream: Steps, module: GraphModule) -> list[torch.Tensor]:
    """Of all images: embeddings are compared with how much they vary over these."""
    return [torch.cat(stream[node]) for node in outputs_of(module)]
