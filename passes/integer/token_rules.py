"""Moves of whole tokens: they keep the grid, and need no quantiser of their own."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch.fx import Node

from packqvit_delegate.grids import AffineGrid, Grid, ResidualGrid

from ..graph import aten, has_tensor, is_call, shape_of
from ..layout import NOTHING, index_map, is_layout, joined_rows, row_groups, row_positions, trace
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
    if x is None or positions is None or not are_rows(x.node):
        return None
    is_joined = positions.shape[-1] > 1 and any(is_call(user, aten.layer_norm.default) for user in node.users)
    codes = gather_codes(context, x.node, positions.flatten(), code_of_zero(x.grid), node, is_joined)
    if shape_of(codes) != shape_of(node):
        codes = context.call(aten.reshape.default, (codes, list(shape_of(node))), node)
    return Codes(codes, side_by_side(x.grid, positions.shape[-1]))


def are_rows(codes: Node) -> bool:
    """Whether the last axis of codes is a row of the operator that writes them, and not the part of one head.

    The codes of an input have no rows of their own.
    """
    written = codes
    while is_call(written, aten.reshape.default):
        written = written.args[0]  # type: ignore[assignment]
    return is_call(written, ops.quantize.default) or shape_of(written)[-1] == shape_of(codes)[-1]


def gather_codes(
    context: LoweringContext, codes: Node, order: torch.Tensor, zero: int, source: Node, is_joined: bool = False
) -> Node:
    """The rows `order`, int64 [M], of codes [..., C], those of NOTHING filled with `zero`: [groups, M / groups, C].

    Rows that come to stand side by side for a LayerNorm are picked even where they are in order: it reads other rows
    than what reads the codes themselves, and picks them on its way.
    """
    *leading, channels = shape_of(codes)
    rows = math.prod(leading)
    if torch.equal(order, torch.arange(rows)) and not is_joined:
        return codes
    groups, index = row_groups(order, leading)
    shape = (groups, rows // groups, channels)
    if shape_of(codes) != shape:
        codes = context.call(aten.reshape.default, (codes, list(shape)), source)
    fill = (zero,) if NOTHING in index else ()
    return context.call(ops.select_tokens.default, (codes, index, *fill), source)


def channels_first_rows(base: Node, node: Node) -> torch.Tensor | None:
    """The row of `base` [..., C] that each token of `node` [P, C, ...] is, where only moves are between them.

    Returns:
        int64 [P, ...], rows counted through all of `base`; None unless the rows stayed whole.
    """
    channels, shape = shape_of(base)[-1:], shape_of(node)
    if not channels or len(shape) < 3 or shape[1] != channels[0]:
        return None
    _, chain = trace(node, lambda passed: passed is not base and is_layout(passed))
    return row_positions(index_map(base, chain).movedim(1, -1), channels[0])


def code_of_zero(grid: Grid) -> int:
    """The code that stands for 0."""
    return grid.zero_point if isinstance(grid, AffineGrid) else 0


def side_by_side(grid: Grid, count: int) -> Grid:
    """The grid of rows that are made of so many rows of another one."""
    if count == 1 or not isinstance(grid, ResidualGrid) or grid.shift is None:
        return grid
    return dataclasses.replace(grid, shift=grid.shift.repeat(count))
