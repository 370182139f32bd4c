"""What went into the delegate, and what did not."""

from __future__ import annotations

import dataclasses

from executorch.exir import EdgeProgramManager
from executorch.exir.lowered_backend_module import get_lowered_submodules
from torch.fx import GraphModule

from .passes.graph import is_part
from .passes.verify_integer import float_operators
from .serialization.names import operator_name

_DELEGATE_CALL = "executorch_call_delegate"


@dataclasses.dataclass(frozen=True)
class OutsideOperator:
    """An operator that ExecuTorch's own kernels run.

    Attributes:
        name: Of the node.
        operator: E.g. `aten::tanh`.
        reason: Why it is not in the delegate.
    """

    name: str
    operator: str
    reason: str


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
        """One line, and one more for each operator outside."""
        lines = [
            f"{self.delegates} delegate call(s) with {self.operators} integer operators, {len(self.outside)} outside"
        ]
        lines += [f"  outside: {o.operator} ({o.name}): {o.reason}" for o in self.outside]
        return "\n".join(lines)


def make_report(integer_module: GraphModule, edge: EdgeProgramManager) -> DelegationReport:
    """Compares the integer graph with the lowered program.

    Args:
        integer_module: Result of lower_to_integer; knows the reasons.
        edge: The program after partitioning.
    """
    reasons = {o.name: o.reason for o in float_operators(integer_module)}
    graph_module = edge.exported_program().graph_module
    lowered = get_lowered_submodules(graph_module)
    inside = sum(node.op == "call_function" for _, module, _ in lowered for node in module.original_module.graph.nodes)
    outside = []
    for node in graph_module.graph.nodes:
        if node.op != "call_function" or is_part(node) or _DELEGATE_CALL in str(node.target):
            continue
        reason = reasons.get(node.name, "it is made of, or stands between, operators that have no integer counterpart")
        outside.append(OutsideOperator(node.name, operator_name(node) or str(node.target), reason))
    return DelegationReport(len(lowered), inside, tuple(outside))
