"""The operators of an integer graph as rows: their weights, and the grids of what they give."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..grids import AffineGrid, OffsetGrid, ProbabilityGrid, ResidualGrid
from ..passes.graph import arguments, constant, is_constant
from ..passes.lower_to_integer import GRID
from ..passes.patterns import layer_name
from ..sensitivity.roles import places
from ..serialization.names import operator_name


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of one operator.

    Attributes:
        shape: Of the codes.
        bits: Of each, 4 or 8.
        size: Bytes in the .pte.
    """

    shape: tuple[int, ...]
    bits: int
    size: int


@dataclasses.dataclass(frozen=True)
class Row:
    """One operator.

    Attributes:
        node: Its name in the integer graph.
        operator: E.g. `linear`.
        layer: Module that it came from; the node's name where there is none.
        role: One of sensitivity.roles.ROLES; "" for one that only moves codes.
        weights: None of an operator without.
        codes: Type and range of the codes that it gives, e.g. `int8, -8 to 7`; "" of an operator without a grid.
        bits: That these codes need; None without a grid.
        scale: Value of one step, in words where channels differ.
        zero_point: Code of 0; None of a grid that has none.
    """

    node: str
    operator: str
    layer: str
    role: str
    weights: Weights | None
    codes: str = ""
    bits: int | None = None
    scale: str = ""
    zero_point: int | None = None


def operator_rows(integer_module: GraphModule) -> list[Row]:
    """The integer operators of a graph, in its order."""
    place = places(integer_module)
    rows = []
    for node in integer_module.graph.nodes:
        namespace, _, name = operator_name(node).partition("::")
        if namespace != "packqvit":
            continue
        role = place[node].role if node in place else ""
        row = Row(node.name, name, layer_name(node), role, _weights(integer_module, node))
        rows.append(dataclasses.replace(row, **_grid(node.meta.get(GRID))))
    return rows


def _weights(integer_module: GraphModule, node: Node) -> Weights | None:
    given = arguments(node)
    if "weight_bits" not in given or not is_constant(given.get("weight")):
        return None
    shape, bits = tuple(constant(integer_module, given["weight"]).shape), int(given["weight_bits"])
    rows, columns = math.prod(shape[:-1]), shape[-1]
    return Weights(shape, bits, rows * -(-columns * bits // 8))


def _grid(grid: Any) -> dict[str, Any]:
    """The fields of a row that tell of its grid."""
    if isinstance(grid, AffineGrid):
        return _described("int8", grid.qmin, grid.qmax, f"{grid.scale:.6g}", grid.zero_point)
    if isinstance(grid, ResidualGrid):
        info = torch.iinfo(grid.dtype)
        shift = 0 if grid.shift is None else int(grid.shift.max())
        by_channel = f", times 1 to {2**shift} by channel" if shift else ""
        name = str(grid.dtype).removeprefix("torch.")
        return _described(name, info.min, info.max, f"{grid.scale:.6g}{by_channel}", 0)
    if isinstance(grid, OffsetGrid):
        offsets = ", ".join(f"{value:.4g}" for value in grid.offset.flatten().tolist())
        return _described("int8", -128, 127, f"{grid.scale:.6g}, and {offsets} for code 0", None)
    if isinstance(grid, ProbabilityGrid) and grid.log2:
        return _described("uint8", 0, 15, "2^-code, 15 is zero", None)
    if isinstance(grid, ProbabilityGrid):
        return _described("uint8", 0, 255, "code / sum of its row", None)
    return {}


def _described(kind: str, least: int, largest: int, scale: str, zero_point: int | None) -> dict[str, Any]:
    bits = (largest - least).bit_length()
    return {"codes": f"{kind}, {least} to {largest}", "bits": bits, "scale": scale, "zero_point": zero_point}
