"""How ExecuTorch plans the memory of our programs."""

from __future__ import annotations

from collections.abc import Sequence

from executorch.exir import ExecutorchBackendConfig
from executorch.exir.backend.partitioner import Partitioner
from executorch.exir.passes import MemoryPlanningPass

from .arguments import checked


@checked
def executorch_config(partitioners: Sequence[Partitioner] = ()) -> ExecutorchBackendConfig:
    """What `to_executorch` is given: the delegate reads inputs where the application has them, without a copy.

    Other backends may read past the end of a tensor, as XNNPACK does, and get a copy with room behind it.

    Args:
        partitioners: Of other backends, as for `export`.
    """
    planning = MemoryPlanningPass(alloc_graph_input=bool(partitioners))
    return ExecutorchBackendConfig(memory_planning_pass=planning)
