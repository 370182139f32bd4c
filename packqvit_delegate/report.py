"""What went into the delegate, and what did not."""

from __future__ import annotations

import dataclasses

from executorch.exir import EdgeProgramManager
from executorch.exir.lowered_backend_module import get_lowered_submodules

from .outside import OutsideOperator, describe_outside, outside_operators


@dataclasses.dataclass(frozen=True)
class DelegationReport:
    """How much of a program runs in integers.

    Attributes:
        delegates: Number of delegate calls in one inference.
        operators: Number of operators inside them.
        outside: The operators outside.
    """

    delegates: int
    operators: int
    outside: tuple[OutsideOperator, ...]

    @property
    def is_whole(self) -> bool:
        """Whether the program is one delegate call and nothing else."""
        return self.delegates == 1 and not self.outside

    def render(self) -> str:
        """One line, and one more for each operator outside; where these are many, for each reason."""
        lines = [
            f"{self.delegates} delegate call(s) with {self.operators} integer operators, {len(self.outside)} outside"
        ]
        lines += [f"  outside: {line}" for line in describe_outside(self.outside)]
        return "\n".join(lines)


def make_report(edge: EdgeProgramManager) -> DelegationReport:
    """Looks at what became of an integer graph.

    Args:
        edge: The program after partitioning; its nodes know the reasons that lower_to_integer gave.
    """
    graph_module = edge.exported_program().graph_module
    lowered = get_lowered_submodules(graph_module)
    inside = sum(node.op == "call_function" for _, module, _ in lowered for node in module.original_module.graph.nodes)
    return DelegationReport(len(lowered), inside, outside_operators(graph_module.graph.nodes))
