"""Prints the time of each operator of a program from its ETDump.

python examples/android/operator_times.py model.pte model.etdump
"""

from __future__ import annotations

import sys
from pathlib import Path

from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.runtime.profile import times_of_dump


def main() -> int:
    """The command line."""
    if len(sys.argv) != 3 or not all(Path(name).is_file() for name in sys.argv[1:]):
        print(f"usage: {sys.argv[0]} MODEL.pte FILE.etdump", file=sys.stderr)
        return 2
    try:
        rows = times_of_dump(Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]))
    except PackQViTError as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(row.median for row in rows)
    print(f"{'operator':40} {'runs':>5} {'median ms':>10} {'share':>6}")
    for row in rows:
        share = 100 * row.median / total if total else 0
        print(f"{row.name:40} {row.runs:5} {row.median:10.4f} {share:5.1f}%")
    print(f"{'sum':40} {'':5} {total:10.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
