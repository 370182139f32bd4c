"""Prints the time of each operator of a program from its ETDump.

python examples/android/operator_times.py model.pte model.etdump
"""

from __future__ import annotations

import logging
import statistics
import sys
from pathlib import Path

from executorch.devtools import Inspector

import packqvit_delegate.serialization.plan_generated as fb
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.serialization.blob import MAGIC, unwrap_plan


def operator_names(program: Path) -> dict[str, str]:
    """Name of each operator by its debug id, from the plan in a .pte.

    Raises:
        PackQViTError: The program has no call of our delegate, or several, whose debug ids would be mixed up.
    """
    content = program.read_bytes()
    count = content.count(MAGIC)
    if count != 1:
        raise PackQViTError(
            f"{program} has {count} calls of the PackQViT delegate; operators are told apart in one alone"
        )
    plan = fb.PlanT.InitFromPackedBuf(unwrap_plan(content[content.index(MAGIC) :]))
    operators = [operator for node in plan.nodes for operator in (*(node.parts or ()), node)]
    return {str(operator.debugId): operator.name.decode() for operator in operators}


def operator_times(program: Path, dump: Path) -> list[tuple[str, int, float]]:
    """Name, number of runs and median milliseconds of each operator inside the delegate, in the order of execution.

    Raises:
        PackQViTError: As operator_names; or the ETDump has no events of a delegate.
    """
    names = operator_names(program)
    found: dict[str, list[float]] = {}
    for block in Inspector(etdump_path=str(dump)).event_blocks:
        for event in block.events:
            if event.is_delegated_op and event.perf_data is not None:
                identifier = str(event.delegate_debug_identifier)
                found.setdefault(names.get(identifier, identifier), []).extend(event.perf_data.raw)
    if not found:
        raise PackQViTError(
            f"{dump} has no operators of a delegate: ExecuTorch and the backend have to be built with "
            "EXECUTORCH_ENABLE_EVENT_TRACER=ON"
        )
    return [(name, len(times), statistics.median(times)) for name, times in found.items()]


def main() -> int:
    """The command line."""
    if len(sys.argv) != 3 or not all(Path(name).is_file() for name in sys.argv[1:]):
        print(f"usage: {sys.argv[0]} MODEL.pte FILE.etdump", file=sys.stderr)
        return 2
    logging.disable(logging.WARNING)  # ExecuTorch's, on the missing ETRecord
    try:
        rows = operator_times(Path(sys.argv[1]), Path(sys.argv[2]))
    except PackQViTError as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(time for *_, time in rows)
    print(f"{'operator':40} {'runs':>5} {'median ms':>10} {'share':>6}")
    for name, runs, time in rows:
        print(f"{name:40} {runs:5} {time:10.4f} {100 * time / total if total else 0:5.1f}%")
    print(f"{'sum':40} {'':5} {total:10.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
