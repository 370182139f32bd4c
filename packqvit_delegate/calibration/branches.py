"""Where a value enters the residual stream, and which of its rows decide a range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from ..passes.graph import aten, is_call, is_constant
from ..passes.patterns import UNARY_FUNCTIONS

_EXTREME_ROWS = 64
_EVEN_ELEMENTS = 1 << 17


def sample_rows(largest: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows with the largest magnitudes, and an even sample of the rest.

    An even sample alone misses the few tokens with massive activations, which decide where a range should end.

    Args:
        largest: float32 [R], the largest magnitude of each row.
        channels: C, of a row.

    Returns:
        Indices, int64 [S], and how many rows each stands for, float32 [S].
    """
    extreme = torch.topk(largest, min(_EXTREME_ROWS, largest.numel())).indices
    is_extreme = torch.zeros(largest.numel(), dtype=torch.bool)
    is_extreme[extreme] = True
    rest = (~is_extreme).nonzero().squeeze(1)
    even = rest[:: max(1, rest.numel() * channels // _EVEN_ELEMENTS)]
    share = rest.numel() / max(1, even.numel())
    return torch.cat([extreme, even]), torch.cat([torch.ones(extreme.numel()), torch.full((even.numel(),), share)])


def rows_of(batches: Sequence[torch.Tensor], indices: torch.Tensor) -> torch.Tensor:
    """Rows out of all batches, as if these were one tensor.

    Args:
        batches: float32 [..., C] each.
        indices: int64 [S], of rows, counted through all batches.

    Returns:
        float32 [S, C].
    """
    rows, first = torch.empty(len(indices), batches[0].shape[-1]), 0
    for batch in batches:
        flat = batch.flatten(0, -2)
        inside = (indices >= first) & (indices < first + len(flat))
        rows[inside] = flat[indices[inside] - first]
        first += len(flat)
    return rows


def stream_before(linear: Node) -> Node | None:
    """The residual stream that a linear's output is added to, or None."""
    user: Any = next(iter(linear.users)) if len(linear.users) == 1 else None
    if not is_call(user, aten.add.Tensor) or user.kwargs or user.args[1] is not linear or is_constant(user.args[0]):
        return None
    stream: Node = user.args[0]
    return stream


def branch_behind(observed: Node) -> tuple[list[Node], Node] | None:
    """The functions between a value and the linear that adds it into the residual stream, and that linear."""
    functions: list[Node] = []
    node = observed
    while len(node.users) == 1:
        (node,) = node.users
        if is_call(node, aten.linear.default):
            return (functions, node) if stream_before(node) is not None else None
        if is_call(node, *UNARY_FUNCTIONS):
            functions.append(node)
        elif node.op != "call_module":
            return None
    return None
