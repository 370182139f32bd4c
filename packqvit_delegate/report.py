"""What went into the delegate, what into those of other backends, and what into none."""

from __future__ import annotations

import dataclasses
import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from executorch.exir import EdgeProgramManager, ExecutorchProgramManager
from executorch.exir.lowered_backend_module import get_lowered_submodules
from torch.fx import Graph, GraphModule

from .backend import PackQViTBackend
from .errors import PackQViTError
from .metadata import Metadata
from .outside import OutsideOperator, describe_outside, outside_operators, taken_operators

if TYPE_CHECKING:
    from .report_page import Judgement, Timing
    from .sensitivity.report import SensitivityReport


@dataclasses.dataclass(frozen=True)
class Fallback:
    """What another backend took of a program (`partitioners` of export).

    Attributes:
        backend: Its name, e.g. `XnnpackBackend`.
        delegates: Number of its calls in one inference.
        operators: What they compute in float, and why it is not in integers.
    """

    backend: str
    delegates: int
    operators: tuple[OutsideOperator, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """What the page of a report looks into.

    Attributes:
        integer_module: The integer graph.
        program: ExecuTorch's program manager.
        metadata: What the program says of itself.
        losses: How far each operator is from the float model, where that was measured.
        made: When.
    """

    integer_module: GraphModule
    program: ExecutorchProgramManager
    metadata: Metadata
    losses: SensitivityReport | None
    made: datetime.datetime


@dataclasses.dataclass(frozen=True)
class DelegationReport:
    """How much of a program runs in integers.

    Attributes:
        delegates: Number of calls of the integer delegate in one inference.
        operators: Number of operators inside them.
        outside: The operators outside of all delegates.
        fallbacks: What other backends took, in the order of their names.
        source: What else `save` looks into; None where a report was made of an edge program alone.
    """

    delegates: int
    operators: int
    outside: tuple[OutsideOperator, ...]
    fallbacks: tuple[Fallback, ...] = ()
    source: Source | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether the program is one delegate call and nothing else."""
        return self.delegates == 1 and not self.outside and not self.fallbacks

    def render(self) -> str:
        """One line, and one more for each operator outside; where these are many, for each reason.

        What another backend took is listed by operators; `fallbacks` has the reasons.
        """
        parts = [f"{self.delegates} delegate call(s) with {self.operators} integer operators"]
        parts += [f"{f.delegates} call(s) of {f.backend} with {len(f.operators)} operators" for f in self.fallbacks]
        lines = [", ".join([*parts, f"{len(self.outside)} outside"])]
        for fallback in self.fallbacks:
            counts = Counter(operator.operator for operator in fallback.operators).most_common()
            names = ", ".join(f"{count} {name}" for name, count in counts)
            lines.append(f"  in {fallback.backend}: {names}")
        lines += [f"  outside: {line}" for line in describe_outside(self.outside)]
        return "\n".join(lines)

    def save(
        self,
        path: str | Path,
        judged: Judgement | None = None,
        timing: Timing | None = None,
        figures: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes all that is known of the program as one HTML page, which needs no network.

        Args:
            path: Of the page, ending in `.html`; a file of this name is replaced when the new one is complete.
            judged: What the program and the float model say to labelled images, as `Judgement.of` finds it.
            timing: How long the program takes here, as `Timing.of` finds it.
            figures: More that was measured, names and values, such as how close embeddings are.

        Raises:
            PackQViTError: The file cannot be written or has another ending, or a picture can no longer be read.
        """
        from .report_page.page import write_page

        if self.source is None:
            raise PackQViTError("this report is of an edge program alone: save program.report of `export`")
        write_page(path, self, self.source, judged, timing, figures)


def make_report(edge: EdgeProgramManager) -> DelegationReport:
    """Looks at what became of an integer graph.

    Args:
        edge: The program after partitioning; its nodes know the reasons that lower_to_integer gave.
    """
    graph_module = edge.exported_program().graph_module
    graphs: dict[str, list[Graph]] = {}
    for _, module, _ in get_lowered_submodules(graph_module):
        graphs.setdefault(module.backend_id, []).append(module.original_module.graph)
    ours = graphs.pop(PackQViTBackend.__name__, [])
    inside = sum(node.op == "call_function" for graph in ours for node in graph.nodes)
    fallbacks = tuple(
        Fallback(name, len(calls), tuple(taken for graph in calls for taken in taken_operators(graph.nodes)))
        for name, calls in sorted(graphs.items())
    )
    return DelegationReport(len(ours), inside, outside_operators(graph_module.graph.nodes), fallbacks)
