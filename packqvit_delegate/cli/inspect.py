"""`packqvit inspect`: what is in a .pte."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from .console import command, console, facts, size
from .options import check_program
from .session import start


@command
def inspect(
    program: Annotated[Path, typer.Argument(help="The .pte.")],
    layers: Annotated[bool, typer.Option("--layers", help="Also every linear layer.")] = False,
) -> None:
    """Show what is in a .pte: what it says of itself, its operators, widths and sizes."""
    check_program(program)
    start("Starting ExecuTorch")
    from .. import runtime
    from ..runtime.description import describe

    found = describe(program)
    info, pixels = found.metadata, found.metadata.preprocessing
    model = runtime.load(program)
    table = facts(str(program))
    table.add_row("size", f"{size(found.size)}, constants {size(found.constants)}")
    table.add_row("model", escape(info.model or "not said"))
    table.add_row("made by", f"packqvit-delegate {info.product_version}" if info.product_version else "not said")
    if info.weight_bits is not None:
        table.add_row("widths", f"W{info.weight_bits}A{info.activation_bits}")
    if len(found.methods) > 1:
        table.add_row("methods", f"{', '.join(found.methods)}; the first one is shown")
    for name, tensors in (("input", model.inputs()), ("output", model.outputs())):
        for tensor in tensors:
            table.add_row(name, f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}")
    for scale, zero_point in found.output_grids:
        table.add_row("grid of the output", f"{scale:.6g} * (code - {zero_point})")
    if pixels is None:
        table.add_row("preprocessing", "not said")
    else:
        resized = int(pixels.size / pixels.crop_fraction)
        what = f"all of it to {resized} x {resized}" if pixels.crop == "squash" else f"short side to {resized}"
        table.add_row("preprocessing", f"{what} ({pixels.interpolation}), centre {pixels.size} x {pixels.size}, RGB")
        table.add_row("mean, std", f"{_numbers(pixels.mean)}; {_numbers(pixels.std)}")
    table.add_row("gives", _answers(info.task, info.top_k))
    if info.class_names:
        first = ", ".join([*info.class_names[:3], *(["..."] if len(info.class_names) > 3 else [])])
        table.add_row("classes", escape(f"{len(info.class_names)}: {first}"))
    table.add_row("backends", ", ".join(found.backends) or "none")
    table.add_row("outside of them", ", ".join(f"{count} {name}" for name, count in found.outside.items()) or "nothing")
    table.add_row("memory of values", size(found.arena))
    table.add_row("tiers of this CPU", ", ".join(runtime.supported_tiers()))
    console.print(table)

    kinds = Table("integer operator", "count")
    for kind, count in found.operators.most_common():
        kinds.add_row(kind, str(count))
    widths = Table("weights", "layers", "bytes")
    for bits in sorted({layer.weight_bits for layer in found.layers}):
        of_bits = [layer for layer in found.layers if layer.weight_bits == bits]
        widths.add_row(f"{bits} bits", str(len(of_bits)), size(sum(layer.weight_bytes for layer in of_bits)))
    console.print(kinds, widths)
    if layers:
        each = Table("layer", "weight", "bits", "bytes", "output")
        for layer in found.layers:
            codes = "" if layer.codes is None else f" {layer.codes[0]} to {layer.codes[1]}"
            shape = " x ".join(map(str, layer.shape))
            each.add_row(layer.name, shape, str(layer.weight_bits), str(layer.weight_bytes), layer.output + codes)
        console.print(each)


def _numbers(values: object) -> str:
    return ", ".join(f"{value:g}" for value in values)  # type: ignore[attr-defined]


def _answers(task: str | None, top_k: int | None) -> str:
    if top_k is not None:
        return f"the best {top_k} classes and their scores"
    return {"classification": "scores of classes", "features": "features", None: "not said"}[task]
