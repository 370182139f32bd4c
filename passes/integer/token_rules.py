"""Operators that only move codes: they keep the grid, and need no quantiser of their own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Node

from ..graph import arguments, aten, shape_of
from .context import Codes, LoweringContext

ops = torch.ops.packqvit

Move = Callable[[LoweringContext, Node, Codes], Codes | None]
MOVES: dict[object, Move] = {}


def _moves(target: object) -> Callable[[Move], Move]:
    def register(rule: Move) -> Move:
        MOVES[target] = rule
        return rule

    return register


@_moves(aten.select.int)
def move_select(context: LoweringContext, node: Node, x: Codes) -> Codes | None:
    """select(x [B, N, C], 1, i) -> reshape(packqvit.select_tokens(x, [i]))."""
    shape = shape_of(node.args[0])  # type: ignore[arg-type]
    if len(shape) != 3 or node.args[1] not in (1, -2):
        return None
    index = arguments(node)["index"] % shape[1]
    selected = context.call(ops.select_tokens.default, (x.node, [index]), node)
    return Codes(context.call(aten.reshape.default, (selected, list(shape_of(node))), node), x.grid)


@_moves(aten.slice.Tensor)
def move_slice(context: LoweringContext, node: Node, x: Codes) -> Codes | None:
    """slice(x [B, N, C], 1, first, last) -> packqvit.select_tokens(x, range)."""
    shape = shape_of(node.args[0])  # type: ignore[arg-type]
    bound = arguments(node)
    if len(shape) != 3 or bound["dim"] not in (1, -2):
        return None
    index = list(range(shape[1]))[bound["start"] : bound["end"] : bound["step"]]
    return Codes(context.call(ops.select_tokens.default, (x.node, index), node), x.grid)


@_moves(aten.reshape.default)
def move_reshape(context: LoweringContext, node: Node, x: Codes) -> Codes | None:
    """Reshape that keeps the last axis: only the view changes."""
    before, after = shape_of(node.args[0]), shape_of(node)  # type: ignore[arg-type]
    if before[-1] != after[-1]:
        return None
    return Codes(context.call(aten.reshape.default, (x.node, list(after)), node), x.grid)
