"""Moves of whole tokens: they keep the grid, and need no quantiser of their own."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch.fx import Node

from packqvit_delegate.grids import AffineGrid, Grid, ResidualGrid

from ..graph import aten, has_tensor, shape_of
from ..layout import NOTHING, is_layout, joined_rows, row_groups, trace
from .context import Codes, LoweringContext

ops = torch.ops.packqvit


def moves_tokens(node: Node) -> bool:
    """Whether a node moves the rows of one tensor as a whole: a reshape, a permutation, a roll, a part of them."""
    if node.op != "call_function" or not is_layout(node) or not has_tensor(node):
        return False
    base, _ = trace(node)
    return has_tensor(base) and joined_rows(base, node) is not None


def move_tokens(context: LoweringContext, node: Node) -> Codes | None:
    """A chain of moves of whole tokens -> reshape(packqvit.select_tokens(reshape(x), index)), what is needed of it.

    The index is the same for every image, or for every window of it, so that it is short.
    """
    base, _ = trace(node)
    x = context.find_codes(base)
    positions = None if x is None else joined_rows(base, node)
    if x is None or positions is None:
        return None
    *leading, channels = shape_of(base)
    rows, order = math.prod(leading), positions.flatten()
    codes, shape = x.node, list(shape_of(base))
    if not torch.equal(order, torch.arange(rows)):
        groups, index = row_groups(order, leading)
        if shape != [groups, rows // groups, channels]:
            codes = context.call(aten.reshape.default, (codes, [groups, rows // groups, channels]), node)
        fill = (code_of_zero(x.grid),) if NOTHING in index else ()
        codes = context.call(ops.select_tokens.default, (codes, index, *fill), node)
        shape = [groups, len(index), channels]
    if shape != list(shape_of(node)):
        codes = context.call(aten.reshape.default, (codes, list(shape_of(node))), node)
    return Codes(codes, side_by_side(x.grid, positions.shape[-1]))


def code_of_zero(grid: Grid) -> int:
    """The code that stands for 0."""
    return grid.zero_point if isinstance(grid, AffineGrid) else 0


def side_by_side(grid: Grid, count: int) -> Grid:
    """The grid of rows that are made of so many rows of another one."""
    if count == 1 or not isinstance(grid, ResidualGrid) or grid.shift is None:
        return grid
    return dataclasses.replace(grid, shift=grid.shift.repeat(count))
