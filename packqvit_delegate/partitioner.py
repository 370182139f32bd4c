"""PackQViTPartitioner: hands integer subgraphs to the delegate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch
from executorch.exir.backend.partitioner import DelegationSpec, Partitioner, PartitionResult
from executorch.exir.backend.utils import tag_constant_data
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from .backend import PackQViTBackend
from .outside import log_lines, outside_operators
from .serialization.fusion import VIEWS
from .serialization.names import operator_name
from .serialization.plan_builder import EMITTERS

logger = logging.getLogger(__name__)


class _Support(OperatorSupportBase):
    def is_node_supported(self, submodules: Mapping[str, torch.nn.Module], node: Node) -> bool:
        name = operator_name(node)
        if name in EMITTERS:
            return True
        if name in VIEWS:
            value = node.meta.get("val")
            source = node.args[0]
            is_codes = isinstance(value, torch.Tensor) and not value.is_floating_point()
            return is_codes and isinstance(source, Node) and self.is_node_supported(submodules, source)
        return False


@final
class PackQViTPartitioner(Partitioner):
    """Tags the `packqvit::*` operators of an integer graph, for `to_edge_transform_and_lower`.

    The graph has to come through `passes.lower_to_integer`; what that left in float stays outside, and is logged.
    """

    def __init__(self, beside: Sequence[Partitioner] = ()) -> None:
        """Needs no options: tiers and threads are chosen at run time.

        Args:
            beside: The partitioners that follow in the same list. to_edge_transform_and_lower decomposes a program for
                one partitioner after the other, so that this one has to ask for the operators that those want whole.
        """
        super().__init__()
        self.delegation_spec = DelegationSpec(PackQViTBackend.__name__, [])
        self._beside = tuple(beside)

    def ops_to_not_decompose(
        self, ep: ExportedProgram
    ) -> tuple[list[torch._ops.OpOverload], Callable[[Node], bool] | None]:
        """The operators that other partitioners want whole; this one's are whole by themselves.

        Args:
            ep: The program ahead of its decomposition.

        Returns:
            Operators, and which nodes among them; None: there are none.
        """
        wanted = [partitioner.ops_to_not_decompose(ep) for partitioner in self._beside]

        def is_wanted(node: Node) -> bool:
            return any(node.target in ops and (accepts is None or accepts(node)) for ops, accepts in wanted)

        found = [op for ops, _ in wanted for op in ops]
        return (found, is_wanted) if found else ([], None)

    def partition(self, exported_program: ExportedProgram) -> PartitionResult:
        """Tags the maximal subgraphs of integer operators.

        Args:
            exported_program: An edge program.
        """
        graph_module = exported_program.graph_module
        support = _Support()
        partitions = CapabilityBasedPartitioner(
            graph_module, support, allows_single_node_partition=True
        ).propose_partitions()
        tags: dict[str, DelegationSpec] = {}
        for partition in partitions:
            tag = f"packqvit_{partition.id}"
            tags[tag] = self.delegation_spec
            for node in partition.nodes:
                node.meta["delegation_tag"] = tag
        tag_constant_data(exported_program)
        self._log_outside(graph_module.graph.nodes, has_partitions=bool(tags))
        return PartitionResult(tagged_exported_program=exported_program, partition_tags=tags)

    @staticmethod
    def _log_outside(nodes: Iterable[Node], has_partitions: bool) -> None:
        outside = outside_operators(nodes)
        if not has_partitions and any("quantized_decomposed" in operator.operator for operator in outside):
            logger.warning(
                "the graph has quantised float operators but no integer ones: call "
                "packqvit_delegate.passes.lower_to_integer on the result of convert_pt2e before exporting it again"
            )
        for line in log_lines(outside):
            logger.info("%s", line)
