"""Tries models of many families: what runs in integers, how exactly, how large, how fast.

python -m benchmarks.zoo --preset W8A8 --preset W4A8 --publish docs
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
from pathlib import Path
from typing import Annotated

import typer

from packqvit_delegate.report_page.timing import cpu_name

from ..comparison import replace_section
from ..contestants import PRESETS, Contestant
from ..report import versions
from ..terminal import check_names, console, only_errors, progress
from ..timing import stopwatch
from .entry import Entry
from .families import ENTRIES, FAMILIES
from .page import page
from .record import Record
from .trial import try_out, write_peer

with contextlib.suppress(ImportError):
    importlib.import_module("torchvision_stub")  # of tests/: for torchvision beside a torch that it was not built for

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

DEFAULT_PRESETS = ["W8A8"]
OURS, PEER = "ours", "peer"


@app.command()
def main(
    model: Annotated[list[str], typer.Option(help="Its name in the tables; can be repeated. Default: all.")] = [],  # noqa: B006
    preset: Annotated[list[str], typer.Option(help="Can be repeated; the first one is timed.")] = DEFAULT_PRESETS,
    keep: Annotated[bool, typer.Option(help="Do not try again what was tried.")] = False,
    timed: Annotated[bool, typer.Option(help="Measure the first preset beside XNNPACK int8 dynamic.")] = True,
    rounds: Annotated[int, typer.Option(help="Turns of each program.", min=1)] = 10,
    output: Annotated[Path, typer.Option(help="Folder for programs and records.")] = Path("build/zoo"),
    publish: Annotated[
        Path | None, typer.Option(help="The folder of documents whose models.md gets the tables.")
    ] = None,
) -> None:
    """Tries each model at each preset, and writes models.md."""
    only_errors()
    _check_models(model)
    check_names(preset, PRESETS, "--preset")
    entries = [ENTRIES[name] for name in model] or list(ENTRIES.values())
    for each in preset:
        (output / each.lower()).mkdir(parents=True, exist_ok=True)
    for entry in entries:
        for each in preset:
            _try(entry, each, output / each.lower(), keep)
    if timed:
        _time(entries, preset[0], output, rounds)
    records = _all_records(preset, output)
    tables = f"{page(FAMILIES, records)}\n{_conditions(any(first.ms for first, *_ in records.values()))}\n"
    (output / "models.md").write_text(tables, encoding="utf-8")
    if publish is not None:
        replace_section(publish / "models.md", "models", tables)
    console.print(f"wrote {output / 'models.md'}: {tables.splitlines()[0]}")
    failed = [
        record.summary() for rows in records.values() for record in rows if record.error and not record.is_refused
    ]
    if failed:
        raise typer.Exit(1)


def _check_models(names: list[str]) -> None:
    for name in names:
        if name not in ENTRIES:
            near = difflib.get_close_matches(name, ENTRIES, cutoff=0.3) or list(ENTRIES)[:3]
            message = f"no model of the zoo is called {name!r}; {', '.join(map(repr, near))} are"
            raise typer.BadParameter(message, param_hint="--model")


def _try(entry: Entry, preset: str, folder: Path, keep: bool) -> None:
    if keep and Record.read(folder, entry.name) is not None:
        return
    record = try_out(entry, preset, folder)
    record.write(folder)
    progress.print(f"{preset} {record.summary()}")


def _time(entries: list[Entry], preset: str, output: Path, rounds: int) -> None:
    """Measures programs, each in turn with XNNPACK's of the same model, which are made first, and once."""
    folder = output / preset.lower()
    waiting = []
    for entry in entries:
        record = Record.read(folder, entry.name)
        if record is not None and not record.error and record.ms is None and entry.batch == 1:
            contestants = [Contestant(OURS, "executorch", folder / f"{record.stem}.pte")]
            peer = output / "xnnpack_dynamic" / f"{record.stem}.pte"
            if peer.exists() or _make_peer(entry, peer):
                contestants.append(Contestant(PEER, "executorch", peer))
            waiting.append((entry, record, contestants))
    if waiting:
        progress.print(f"timing {len(waiting)} models, on one thread: leave the machine alone")
    with stopwatch() as take:
        for entry, record, contestants in waiting:
            timings = {timing.name: timing.median for timing in take(contestants, entry.tests[0], 1, rounds)}
            record.ms, record.peer_ms = timings[OURS], timings.get(PEER)
            record.write(folder)
            ratio = f", XNNPACK int8 dynamic {record.peer_ms / record.ms:.2f} times that" if record.peer_ms else ""
            progress.print(f"{entry.name}: {record.ms:.1f} ms{ratio}")


def _make_peer(entry: Entry, path: Path) -> bool:
    path.parent.mkdir(exist_ok=True)
    try:
        write_peer(entry, path)
    except Exception as error:  # another project's: whatever it raises, it has no program
        progress.print(f"XNNPACK int8 dynamic has no {entry.name}: {(str(error) or repr(error)).splitlines()[0][:200]}")
        path.unlink(missing_ok=True)
        return False
    return True


def _all_records(presets: list[str], output: Path) -> dict[str, list[Record]]:
    """By name; of models that have been tried at the first of the presets, at least."""
    found = {}
    for name in ENTRIES:
        records = [Record.read(output / preset.lower(), name) for preset in presets]
        if records[0] is not None:
            found[name] = [record for record in records if record is not None]
    return found


def _conditions(is_timed: bool) -> str:
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    how = "One image on one thread, both programs in turn, " if is_timed else ""
    return f"{how}{cpu_name()}; {libraries}."


if __name__ == "__main__":
    app()
