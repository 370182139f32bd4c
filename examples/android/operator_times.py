"""Prints the time of each operator in an ETDump.

python examples/android/operator_times.py model.etdump
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from executorch.devtools import Inspector


def operator_times(path: Path) -> list[tuple[str, int, float]]:
    """Name, number of runs and median milliseconds of each operator inside the delegate, in the order of execution.

    Raises:
        ValueError: The ETDump has no events of a delegate.
    """
    found: dict[str, list[float]] = {}
    for block in Inspector(etdump_path=str(path)).event_blocks:
        for event in block.events:
            if event.is_delegated_op and event.perf_data is not None:
                found.setdefault(event.name, []).extend(event.perf_data.raw)
    if not found:
        raise ValueError(
            f"{path} has no operators of a delegate: ExecuTorch and the backend have to be built with "
            "EXECUTORCH_ENABLE_EVENT_TRACER=ON"
        )
    return [(name, len(times), statistics.median(times)) for name, times in found.items()]


def main() -> int:
    """The command line."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_file():
        print(f"usage: {sys.argv[0]} FILE.etdump", file=sys.stderr)
        return 2
    try:
        rows = operator_times(Path(sys.argv[1]))
    except ValueError as error:
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
