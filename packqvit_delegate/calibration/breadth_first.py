"""Runs a graph node by node, each on all batches before the next: what a node decides, the nodes behind it see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from ..batching import ImageAxes
from ..passes.graph import aten, constant, is_call
from ..quantizer.observers import ProbabilityObserver

Values = list[torch.Tensor]

_FREED = torch.empty(0)
_RELATIVE = torch.ops.packqvit.relative_bias.default


class Stream:
    """The values of all nodes that are still needed, one tensor a batch; constants are a single tensor.

    Batches may hold more images than the graph was exported for (batching.py); where the graph runs on that number
    only, they are cut.

    Fleeting values are not kept: what reads them computes them, batch by batch.

    Attributes:
        axes: Where the images stand.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        batches: Sequence[tuple[torch.Tensor, ...]],
        batch_size: int,
        axes: ImageAxes | None = None,
        fleeting: Collection[Node] = (),
        rounds: bool = True,
    ) -> None:
        """Starts before the first node.

        Args:
            graph_module: Canonical, with or without observers.
            batches: Inputs, in the order of the graph's placeholders.
            batch_size: Images that the graph was exported for.
            axes: Of this graph, where they are known already.
            fleeting: Nodes whose values are not kept, as `fleeting_values` finds them.
            rounds: Whether observers among them round, or pass on what they read.

        Raises:
            CalibrationError: The batches cannot be cut.
        """
        self._module, self._fleeting, self._rounds = graph_module, frozenset(fleeting), rounds
        self.axes = axes or ImageAxes(graph_module, batch_size)
        self._batches = self.axes.cut(batches)
        self._values: dict[Node, Values | torch.Tensor] = {}
        self._inputs = [node for node in graph_module.graph.nodes if node.op == "placeholder"]

    def __getitem__(self, node: Node) -> Values:
        """The node's value for each batch."""
        value = self._values[node]
        return [value] * len(self._batches) if isinstance(value, torch.Tensor) else value

    def __contains__(self, node: Node | None) -> bool:
        """Whether the node's value is there: computed, and not freed."""
        return node in self._values

    def __setitem__(self, node: Node, value: Values | torch.Tensor) -> None:
        """Decides the node's value."""
        self._values[node] = value

    def images(self, index: int) -> int:
        """Images in a batch."""
        return self._batches[index][0].shape[0]

    def pass_on(self, node: Node, source: Node) -> None:
        """Gives a node the value of another, as if it were not there."""
        if node in self._fleeting:
            return
        value = self._values[source]
        self._values[node] = value if isinstance(value, torch.Tensor) else list(value)

    def forget(self, node: Node) -> None:
        """Frees a value."""
        self._values.pop(node, None)

    def run(self, node: Node, dying: Collection[Node] = ()) -> None:
        """Computes a placeholder, a constant or an operator; observers are the caller's to decide.

        Args:
            node: What to compute.
            dying: Values that nobody needs any more: each batch of them is freed as soon as its result is there.
        """
        if node in self._fleeting:
            return
        if node.op == "placeholder":
            index = self._inputs.index(node)
            self._values[node] = [batch[index] for batch in self._batches]
        elif node.op == "get_attr":
            self._values[node] = constant(self._module, node)
        else:
            self._values[node] = self._each(lambda index: self._call(node, index), dying)

    def apply(
        self, node: Node, source: Node, function: Callable[[torch.Tensor], torch.Tensor], dying: Collection[Node] = ()
    ) -> None:
        """Gives a node what a function makes of each batch of another.

        Args:
            node: Gets the results.
            source: Its batches are the arguments.
            function: Of one batch.
            dying: As for `run`.
        """
        values = self[source]
        self._values[node] = self._each(lambda index: function(values[index]), dying)

    def _each(self, compute: Callable[[int], torch.Tensor], dying: Collection[Node]) -> Values:
        freed = [value for value in (self._values.get(node) for node in dying) if isinstance(value, list)]
        results = []
        for index in range(len(self._batches)):
            results.append(compute(index))
            for value in freed:
                value[index] = _FREED
        return results

    def _call(self, node: Node, index: int) -> torch.Tensor:
        def value_of(argument: Node) -> Any:
            if argument in self._fleeting:
                return self._call(argument, index)
            value = self._values[argument]
            return value if isinstance(value, torch.Tensor) else value[index]

        operands: Any = map_arg((node.args, node.kwargs), value_of)
        args, kwargs = operands
        args = self.axes.arguments(node, args, self.images(index))
        target: Any = node.target
        if node.op == "call_module":
            target = self._module.get_submodule(str(node.target))
            if node in self._fleeting:
                return target.fake_quantize(*args) if self._rounds else args[0]
        return target(*args, **kwargs)


def fleeting_values(graph_module: GraphModule) -> set[Node]:
    """The scores and probabilities of attentions, where one product reads them and no grid is decided on them.

    And the relative positions that are added to them.

    Each is as large as the square of the number of tokens, and cheap to compute from q and k.

    Args:
        graph_module: Canonical, with or without observers.
    """
    found: set[Node] = set()
    for softmax in graph_module.graph.find_nodes(op="call_function", target=aten.softmax.int):
        chain = [softmax]
        while is_call(chain[-1], aten.softmax.int, aten.mul.Tensor, aten.add.Tensor):
            chain.append(chain[-1].args[0])
        last = next(iter(softmax.users), softmax)
        if last.op == "call_module":
            chain.insert(0, last)
            if not isinstance(graph_module.get_submodule(str(last.target)), ProbabilityObserver):
                continue
        is_attention = is_call(chain[-1], aten.matmul.default) and all(len(node.users) == 1 for node in chain)
        if is_attention and is_call(next(iter(chain[0].users)), aten.matmul.default):
            found.update(chain)
            found.update(other for node in chain for other in node.all_input_nodes if is_call(other, _RELATIVE))
    return found


def last_uses(graph_module: GraphModule, fleeting: Collection[Node] = ()) -> dict[Node, list[Node]]:
    """For each node, the values that nothing behind it reads.

    Args:
        graph_module: Any.
        fleeting: What they are computed from is read again by what reads them.
    """

    def reads(node: Node) -> list[Node]:
        return [r for o in node.all_input_nodes for r in (reads(o) if o in fleeting else [o])]

    last = {operand: node for node in graph_module.graph.nodes if node not in fleeting for operand in reads(node)}
    done: dict[Node, list[Node]] = {}
    for value, user in last.items():
        done.setdefault(user, []).append(value)
    return done
