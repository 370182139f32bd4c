"""PackQViTBackend: the export half of the delegate."""

from __future__ import annotations

from typing import final

from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.backend.backend_details import BackendDetails, CompileSpec, PreprocessResult
from executorch.exir.backend.utils import DelegateMappingBuilder
from torch.export import ExportedProgram
from torch.fx import Node

from .serialization import emitters  # noqa: F401 - registers the emitters
from .serialization.blob import wrap_plan
from .serialization.plan_builder import PlanBuilder


@final
class PackQViTBackend(BackendDetails):
    """Writes integer partitions as plans for the native backend of the same name."""

    @staticmethod
    def preprocess(edge_program: ExportedProgram, compile_specs: list[CompileSpec]) -> PreprocessResult:
        """Serialises a partition.

        Args:
            edge_program: packqvit operators and views of codes; constants are its parameters and buffers.
            compile_specs: None are defined; tiers and threads are chosen at run time.

        Returns:
            Header and plan, the constants for the named data store, and the debug ids of the operators.

        Raises:
            PlanError: The partition holds what no plan can express.
        """
        mapping = DelegateMappingBuilder(generated_identifiers=True)
        store = NamedDataStore()

        def debug_id(nodes: tuple[Node, ...]) -> int:
            return int(mapping.insert_delegate_mapping_entry(nodes=list(nodes)))

        plan = PlanBuilder(edge_program).build(store, debug_id)
        return PreprocessResult(
            processed_bytes=wrap_plan(plan),
            debug_handle_map=mapping.get_delegate_mapping(),
            data_store_output=store.get_named_data_store_output(),
        )
