"""Runs a float graph and samples chosen values."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.fx import GraphModule, Interpreter, Node

from packqvit_delegate.row_sample import RowSample


@torch.no_grad()
def sample_values(
    graph_module: GraphModule, nodes: Iterable[Node], batches: Iterable[tuple[torch.Tensor, ...]]
) -> dict[Node, RowSample]:
    """What nodes of a graph give on batches of its inputs.

    Raises:
        CalibrationError: A value is not finite.
    """
    recorder = _Recorder(graph_module, {node: RowSample() for node in nodes})
    for batch in batches:
        recorder.run(*batch)
    return recorder.samples


class _Recorder(Interpreter):
    def __init__(self, graph_module: GraphModule, samples: dict[Node, RowSample]) -> None:
        super().__init__(graph_module)
        self.samples = samples

    def run_node(self, n: Node) -> object:
        value = super().run_node(n)
        if n in self.samples:
            self.samples[n].add(value)
        return value
