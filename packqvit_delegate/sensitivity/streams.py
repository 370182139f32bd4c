"""Graphs run node by node, from where a caller stopped, with values that a caller may change."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch.fx import GraphModule, Node

from ..batching import ImageAxes
from ..calibration.breadth_first import Stream, last_uses


class Steps(Stream):
    """A Stream that frees what nothing behind a node reads, and that can be split in two at any node."""

    def __init__(
        self,
        graph_module: GraphModule,
        batches: Sequence[tuple[torch.Tensor, ...]],
        batch_size: int,
        axes: ImageAxes | None = None,
    ) -> None:
        """Starts before the first node; arguments as Stream's."""
        super().__init__(graph_module, batches, batch_size, axes)
        self._done = last_uses(graph_module)

    def fork(self) -> Steps:
        """A second stream that goes on from here; values are shared, not copied."""
        twin = copy.copy(self)
        twin._values = dict(self._values)
        return twin

    def release(self, node: Node) -> None:
        """Frees the values that were read for the last time by a node."""
        for value in self._done.get(node, ()):
            self.forget(value)


class OnDemand(Stream):
    """Values of one batch, computed when they are asked for and freed when nobody will read them any more."""

    def __init__(
        self,
        graph_module: GraphModule,
        batch: tuple[torch.Tensor, ...],
        batch_size: int,
        taken: Iterable[Node],
        axes: ImageAxes | None = None,
    ) -> None:
        """Starts with nothing computed.

        Args:
            graph_module: As Stream's.
            batch: As one of Stream's.
            batch_size: As Stream's.
            taken: The nodes whose values will be taken; each is kept until then.
            axes: As Stream's; all images of the batch run at once.
        """
        super().__init__(graph_module, [batch], batch_size, axes)
        self._positions = {node: position for position, node in enumerate(graph_module.graph.nodes)}
        self._kept = set(taken)
        self._readers = {node: set(node.users) for node in graph_module.graph.nodes}

    def take(self, node: Node) -> torch.Tensor:
        """The value of a node."""
        missing: set[Node] = set()
        wanted = [node]
        while wanted:
            candidate = wanted.pop()
            if candidate not in self._values and candidate not in missing:
                missing.add(candidate)
                wanted.extend(candidate.all_input_nodes)
        for step in sorted(missing, key=self._positions.__getitem__):
            self.run(step)
            for operand in step.all_input_nodes:
                self._readers[operand].discard(step)
                self._free(operand)
        value = self[node][0]
        self._kept.discard(node)
        self._free(node)
        return value

    def replace(self, node: Node, value: torch.Tensor) -> None:
        """Decides what the readers of a node get."""
        self[node] = [value]
        self._free(node)

    def _free(self, node: Node) -> None:
        if not self._readers[node] and node not in self._kept:
            self.forget(node)


def computed(graph_module: GraphModule) -> list[Node]:
    """The nodes that a stream runs: not the output, and not torch.export's check of the input shapes."""
    return [n for n in graph_module.graph.nodes if n.op != "output" and (n.op == "placeholder" or n.users)]


def output_of(graph_module: GraphModule) -> Node:
    """The node whose value the graph returns; its first one, when it returns several."""
    (output,) = (node for node in graph_module.graph.nodes if node.op == "output")
    returned = output.args[0]
    first = next(iter(returned)) if isinstance(returned, Iterable) else returned
    assert isinstance(first, Node)
    return first
