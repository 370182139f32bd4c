"""The times of the operators inside a program's delegate call, from an ETDump."""

from __future__ import annotations

import dataclasses
import logging
import statistics
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import packqvit_delegate.serialization.plan_generated as fb

from ..errors import PackQViTError
from ..serialization.blob import MAGIC, unwrap_plan


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """One operator of a delegate.

    Attributes:
        name: In the plan.
        runs: How often it ran.
        median: Milliseconds.
    """

    name: str
    runs: int
    median: float


@dataclasses.dataclass(frozen=True)
class KindTime:
    """All operators of one kind.

    Attributes:
        kind: E.g. `linear`.
        count: Of them in one run.
        total: Milliseconds of all of them in one run.
    """

    kind: str
    count: int
    total: float


def by_kind(times: Iterable[OperatorTime]) -> list[KindTime]:
    """The kinds of operators, those that take longest first."""
    sums: dict[str, list[float]] = {}
    for operator in times:
        kind = operator.name.removeprefix("packqvit_").partition("_default")[0]
        sums.setdefault(kind, []).append(operator.median)
    found = [KindTime(kind, len(each), sum(each)) for kind, each in sums.items()]
    return sorted(found, key=lambda item: -item.total)


def operators_of(content: bytes) -> dict[str, str]:
    """Name of each operator by its debug id, from the plan in a .pte.

    Raises:
        PackQViTError: The program has no call of our delegate, or several, whose debug ids would be mixed up.
    """
    count = content.count(MAGIC)
    if count != 1:
        raise PackQViTError(
            f"the program has {count} calls of the PackQViT delegate; operators are told apart in one alone"
        )
    plan = fb.PlanT.InitFromPackedBuf(unwrap_plan(content[content.index(MAGIC) :]))
    operators = [operator for node in plan.nodes for operator in (*(node.parts or ()), node)]
    return {str(operator.debugId): operator.name.decode() for operator in operators}


def operator_times(content: bytes, program: Any) -> list[OperatorTime]:
    """Times of the operators, in the order of execution.

    Args:
        content: The .pte.
        program: ExecuTorch's, loaded with an ETDump, that has run.

    Raises:
        PackQViTError: As `operators_of`; or the ETDump has no events of a delegate.
    """
    with tempfile.TemporaryDirectory() as folder:
        dump = Path(folder) / "model.etdump"
        program.write_etdump_result_to_file(str(dump), str(Path(folder) / "debug.bin"))
        return times_of_dump(content, dump)


def times_of_dump(content: bytes, dump: Path) -> list[OperatorTime]:
    """Times of the operators in an ETDump.

    Args:
        content: The .pte.
        dump: File of its ETDump.

    Raises:
        PackQViTError: As `operator_times`.
    """
    names = operators_of(content)
    found: dict[str, list[float]] = {}
    for event in _events(dump):
        if event.is_delegated_op and event.perf_data is not None:
            identifier = str(event.delegate_debug_identifier)
            found.setdefault(names.get(identifier, identifier), []).extend(event.perf_data.raw)
    if not found:
        raise PackQViTError(
            "no operators of a delegate were timed: the program has not run, or ExecuTorch and the backend were built "
            "without EXECUTORCH_ENABLE_EVENT_TRACER=ON"
        )
    return [OperatorTime(name, len(times), statistics.median(times)) for name, times in found.items()]


def _events(dump: Path) -> list[Any]:
    from executorch.devtools import Inspector  # takes a second to import

    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # ExecuTorch's, on the missing ETRecord
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Output Buffer not found")
            return [event for block in Inspector(etdump_path=str(dump)).event_blocks for event in block.events]
    finally:
        logging.disable(disabled)
