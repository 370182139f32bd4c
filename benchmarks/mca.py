"""Models the inner loops of the Arm kernels with llvm-mca: multiply-accumulates per cycle, and the share of the peak.

python -m benchmarks.mca --build build/aarch64-clang

The kernel files are compiled to assembly with the commands of a build by clang, and the loops that they mark
(backend_cpp/kernels/mca.h) are modelled on the cores that have their instructions.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .terminal import console, progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

CORES = ("neoverse-n1", "neoverse-n2", "neoverse-v1", "neoverse-v2", "cortex-a53", "cortex-a55")
ITERATIONS = 1000

PEAKS: dict[str, dict[str, float]] = {
    "smmla": {"neoverse-n2": 64, "neoverse-v1": 128, "neoverse-v2": 128},
    "sdot": {"neoverse-n1": 32, "neoverse-n2": 32, "neoverse-v1": 64, "neoverse-v2": 64, "cortex-a55": 16},
    "mla": {"neoverse-n2": 16, "neoverse-v2": 32, "cortex-a53": 32 / 3, "cortex-a55": 32 / 3},
    "two_in_lane": {"neoverse-n2": 16, "neoverse-v2": 32, "cortex-a53": 8, "cortex-a55": 8},
    "smlal": {
        "neoverse-n1": 8,
        "neoverse-n2": 8,
        "neoverse-v1": 16,
        "neoverse-v2": 16,
        "cortex-a53": 8,
        "cortex-a55": 8,
    },
    "smull": {
        "neoverse-n1": 8,
        "neoverse-n2": 32 / 3,
        "neoverse-v1": 16,
        "neoverse-v2": 16,
        "cortex-a53": 16 / 3,
        "cortex-a55": 16 / 3,
    },
}
"""Multiply-accumulates per cycle that a route can reach on a core, from the issue rates of its instructions.

A core is missing where it lacks the instructions, and for `mla` and `two_in_lane` on Neoverse N1 and V1, whose models
do not know how long MLA takes on 8-bit lanes, or by element. `smlal` is SMLAL into 16 bits without a drain, `smull` is
SMULL + SMLAL2 + SADALP, `two_in_lane` is MUL + MLA + SRSRA + ADD.
"""

UNKNOWN_TO_MODELS = ("mla", "two_in_lane")
"""Routes whose instructions every core has, but not every model."""

MACS = {"smmla": 32, "ummla": 32, "sdot": 16, "udot": 16, "smlal": 8, "smlal2": 8, "smull": 8, "smull2": 8}
"""Multiply-accumulates of one instruction on 8-bit codes, besides MUL and MLA on 8-bit lanes."""

BEGIN = re.compile(r"LLVM-MCA-BEGIN\s*(.*)")
LABEL = re.compile(r"(\.?\w+):")
BRANCH = re.compile(r"\s+(?:b(?:\.\w+)?|cbn?z\s+\w+,|tbn?z\s+\w+,\s*#\d+,)\s+(\.?\w+)")
DECLARED = re.compile(r"\b(macs|route)=(\w+)")


@dataclass(frozen=True)
class Region:
    """One marked loop body in assembly."""

    name: str
    route: str
    macs: int
    instructions: int


@dataclass(frozen=True)
class Rate:
    """What the model of one core says about a region."""

    core: str
    region: str
    route: str
    macs_per_cycle: float
    peak: float
    macs_per_instruction: float

    @property
    def share(self) -> float:
        """Of the route's peak."""
        return self.macs_per_cycle / self.peak


def parse_regions(assembly: str) -> list[Region]:
    """The marked loops, in order.

    The multiply-accumulates of an iteration are counted from the instructions, and the route is told by them, unless
    `macs=N` and `route=NAME` follow the name: a kernel that computes two products in one lane has to say so.
    """
    regions: list[Region] = []
    name: str | None = None
    instructions: list[str] = []
    for line in assembly.splitlines():
        if begin := BEGIN.search(line):
            name, instructions = begin[1].strip(), []
        elif "LLVM-MCA-END" in line and name is not None:
            declared = dict(DECLARED.findall(name))
            macs = int(declared.get("macs", sum(map(_macs, instructions))))
            route = declared.get("route") or _route(instructions)
            regions.append(Region(DECLARED.sub("", name).strip(), route, macs, len(instructions)))
            name = None
        elif name is not None and (words := line.split("//")[0].split()):
            instructions.append(" ".join(words))
    return regions


def enclose_loops(assembly: str) -> str:
    """Moves the markers inside of a loop of one basic block to the block's ends.

    Compilers move instructions across markers, but not out of the loop: between its label and the branch back to it are
    all of them. Markers elsewhere, such as those of inline assembly with a loop of its own, stay.
    """
    lines = assembly.splitlines()
    begin = None
    for end in range(len(lines)):
        if BEGIN.search(lines[end]):
            begin = end
        elif "LLVM-MCA-END" in lines[end] and begin is not None:
            first, label = _label_before(lines, begin)
            last = label and _branch_behind(lines, begin, label)
            if last:
                lines.insert(last + 1, lines[end])
                lines[end] = ""
                lines[first] += "\n" + lines[begin]
                lines[begin] = ""
            begin = None
    return "\n".join(lines) + "\n"


def drop_branches(assembly: str) -> str:
    """Takes the branches out of marked loops: llvm-mca does not predict them, and lets in-order cores wait for them."""
    lines, inside = [], False
    for line in assembly.splitlines():
        inside = bool(BEGIN.search(line)) or (inside and "LLVM-MCA-END" not in line)
        if not (inside and BRANCH.match(line)):
            lines.append(line)
    return "\n".join(lines) + "\n"


def _label_before(lines: list[str], index: int) -> tuple[int, str | None]:
    while index > 0:
        index -= 1
        if label := LABEL.match(lines[index]):
            return index, label[1]
        if BRANCH.match(lines[index]):
            break
    return index, None


def _branch_behind(lines: list[str], index: int, label: str) -> int | None:
    for i in range(index + 1, len(lines)):
        if LABEL.match(lines[i]):
            break
        if branch := BRANCH.match(lines[i]):
            return i if branch[1] == label else None
    return None


def _macs(instruction: str) -> int:
    mnemonic, _, operands = instruction.partition(" ")
    if mnemonic in ("mul", "mla"):
        return 16 if operands.partition(",")[0].endswith(".16b") else 0
    return MACS.get(mnemonic, 0)


def _route(instructions: list[str]) -> str:
    multiplying = {instruction.split()[0] for instruction in instructions if _macs(instruction) > 0}
    for route, signs in {"smmla": {"smmla", "ummla"}, "sdot": {"sdot", "udot"}, "mla": {"mul", "mla"}}.items():
        if multiplying & signs:
            return route
    drains = any(instruction.startswith(("sadalp", "uadalp")) for instruction in instructions)
    return "smull" if multiplying & {"smull", "smull2"} and drains else "smlal"


def parse_cycles(report: str) -> list[float]:
    """Cycles per iteration of each region, from llvm-mca's JSON."""
    return [
        region["SummaryView"]["TotalCycles"] / region["SummaryView"]["Iterations"]
        for region in json.loads(report)["CodeRegions"]
    ]


def model_file(assembly: Path, mca: str) -> list[Rate]:
    """Models every marked loop of an assembly file on every core that has its instructions."""
    regions = parse_regions(assembly.read_text())
    if not regions:
        return []
    rates = []
    for core in CORES:
        if not all(core in PEAKS[region.route] or region.route in UNKNOWN_TO_MODELS for region in regions):
            continue
        command = [mca, "-mtriple=aarch64-linux-gnu", f"-mcpu={core}", f"-iterations={ITERATIONS}", "--json"]
        run = subprocess.run([*command, str(assembly)], stdout=subprocess.PIPE, text=True, check=True)
        for region, cycles in zip(regions, parse_cycles(run.stdout), strict=True):
            if (peak := PEAKS[region.route].get(core)) is not None and region.macs > 0:
                macs_per_instruction = region.macs / region.instructions
                rates.append(Rate(core, region.name, region.route, region.macs / cycles, peak, macs_per_instruction))
    return rates


def compile_to_assembly(entry: dict[str, str], output: Path) -> None:
    """Repeats the command of a compilation database so that it writes assembly with the markers of llvm-mca."""
    words = shlex.split(entry["command"])
    words[words.index("-o") + 1] = str(output)
    words[words.index("-c")] = "-S"
    subprocess.run([*words, "-DPACKQVIT_MCA"], cwd=entry["directory"], check=True)
    # clang writes comments with //, in which llvm-mca for AArch64 does not look for its markers.
    text = drop_branches(enclose_loops(output.read_text()))
    output.write_text(text.replace("// LLVM-MCA-", "# LLVM-MCA-"))


def kernel_files(database: Path) -> list[dict[str, str]]:
    """The entries of a compilation database that are Arm kernels."""
    entries: list[dict[str, str]] = json.loads(database.read_text())
    return [entry for entry in entries if re.search(r"/(kernels/neon\w*|comparison)/", entry["file"])]


def rate_table(rates: list[Rate]) -> Table:
    """Multiply-accumulates per cycle and share of the peak, by loop and core."""
    cores = [core for core in CORES if any(rate.core == core for rate in rates)]
    table = Table(show_lines=True, title="multiply-accumulates per cycle, share of the route's peak")
    table.add_column("loop", no_wrap=True)
    table.add_column("route", no_wrap=True)
    table.add_column("per\ninstruction", justify="right")
    for core in cores:
        table.add_column(core.partition("-")[2].upper(), justify="right")
    for region, route in dict.fromkeys((rate.region, rate.route) for rate in rates):
        found = {rate.core: rate for rate in rates if (rate.region, rate.route) == (region, route)}
        cells = [f"{found[c].macs_per_cycle:.1f}\n{found[c].share:.0%}" if c in found else "-" for c in cores]
        per_instruction = next(iter(found.values())).macs_per_instruction
        table.add_row(region, route, f"{per_instruction:.1f}", *cells)
    return table


@app.command()
def main(
    build: Annotated[Path, typer.Option(help="An aarch64 build by clang.")] = Path("build/aarch64-clang"),
    output: Annotated[Path, typer.Option(help="JSON file.")] = Path("build/benchmarks/mca.json"),
    mca: Annotated[str, typer.Option(help="LLVM 19 or later.")] = "llvm-mca-19",
) -> None:
    """Models the inner loops of the Arm kernels."""
    database = build / "compile_commands.json"
    if not database.is_file():
        raise typer.BadParameter(f"{build} has no {database.name}: run `make bench-aarch64`", param_hint="--build")
    if shutil.which(mca) is None:
        raise typer.BadParameter(f"{mca} is missing: install llvm-19", param_hint="--mca")
    rates: dict[tuple[str, str], Rate] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, entry in enumerate(kernel_files(database)):
            progress.print(f"modelling {entry['file']}")
            assembly = Path(folder, f"{number}.s")
            compile_to_assembly(entry, assembly)
            for rate in model_file(assembly, mca):
                rates.setdefault((rate.region, rate.core), rate)  # files that share a header share its loops
    console.print(rate_table(list(rates.values())))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps([{**asdict(rate), "share": rate.share} for rate in rates.values()], indent=2) + "\n")


if __name__ == "__main__":
    app()
