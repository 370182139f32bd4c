"""Tables of `packqvit sensitivity`."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from ..sensitivity import MixedPrecision
from .console import size


def steps_table(found: MixedPrecision) -> Table:
    """The layers of a mix, in the order in which they were found."""
    known = found.facts
    names = {"weight_bits": "weights", "activation_bits": "output"}
    table = Table(
        "8 bits for",
        "of",
        "bytes",
        "multiply-accumulates",
        f"loss alone, {known['loss']['unit']}",
        title="most use for its cost first",
    )
    for layer in known["layers"]:
        extra = f"+{size(layer['extra_bytes'])}" if layer["extra_bytes"] else ""
        share = f"{100 * layer['macs'] / known['macs_of_linear_layers']:.1f} %" if layer["macs"] else ""
        table.add_row(names[layer["field"]], escape(layer["layer"]), extra, share, f"{layer['loss_alone']:.4f}")
    before, after = known["weight_bytes"]["before"], known["weight_bytes"]["after"]
    wide = known["macs_at_8_bit_activations"]["after"] / known["macs_of_linear_layers"]
    loss = f"{known['loss']['before']:.3f} -> {known['loss']['after']:.3f}"
    table.add_row("in all", "", f"+{100 * (after / before - 1):.1f} %", f"{100 * wide:.1f} %", loss)
    return table
