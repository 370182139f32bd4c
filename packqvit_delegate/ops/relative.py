"""Relative positions that depend on the query: in float graphs, and in codes.

They are decomposed (Li et al., MViTv2, CVPR 2022, equation 4): what a query adds to its score for a key is one product
for the rows of the map that are between them, and one for the columns.
"""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import integer_matmul, rounding_shift_right
from .attention import split_heads
from .library import LIBRARY, integer_op

LIBRARY.define("relative_bias(Tensor q, Tensor relative, int rows, int columns) -> Tensor")


def relative_bias(q: torch.Tensor, relative: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """What is added to the scores of queries that stand on a map.

    Args:
        q: Float [B, H, N, d], the tokens of the map row by row, N = rows * columns.
        relative: Float [H or 1, O, d], O = 2 * rows - 1 + 2 * columns - 1: of the keys' rows minus the query's, from
            1 - rows to rows - 1, and then of the columns.
        rows: Of the map.
        columns: Of the map.

    Returns:
        Float [B, H, N, N].
    """
    return _spread(q @ relative.transpose(-1, -2), rows, columns)


LIBRARY.impl("relative_bias", relative_bias, "CompositeImplicitAutograd")


def _spread(products: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The sum of two products [..., N, O] for each key: [..., N, N]."""
    by_row, by_column = products.split([2 * rows - 1, 2 * columns - 1], -1)
    query = torch.arange(rows * columns, device=products.device).unsqueeze(1)
    row = torch.arange(rows, device=products.device) - query // columns + rows - 1
    column = torch.arange(columns, device=products.device) - query % columns + columns - 1
    leading = products.shape[:-1]
    by_row = by_row.gather(-1, row.expand(*leading, rows)).unsqueeze(-1)
    by_column = by_column.gather(-1, column.expand(*leading, columns)).unsqueeze(-2)
    return (by_row + by_column).flatten(-2)


def _add_relative_bias_meta(
    scores: Any, q: Any, relative: Any, rows: Any, columns: Any, multiplier: Any, shift: Any
) -> torch.Tensor:
    return torch.empty_like(scores)


@integer_op(
    "add_relative_bias(Tensor scores, Tensor q, Tensor relative, int rows, int columns, int multiplier, int shift) -> "
    "Tensor",
    _add_relative_bias_meta,
)
def add_relative_bias(
    scores: torch.Tensor,
    q: torch.Tensor,
    relative: torch.Tensor,
    rows: int,
    columns: int,
    multiplier: int,
    shift: int,
) -> torch.Tensor:
    """Relative positions in integers, added to the accumulators of Q K^T.

    Args:
        scores: int32 [B, H, N, N], N = rows * columns.
        q: int8 [B, N, H * d].
        relative: int8 [H or 1, O, d], as of `relative_bias`.
        rows: Of the map.
        columns: Of the map.
        multiplier: In [0, 2^15 - 1]; with shift, the step of q times that of `relative`, in steps of the scores.
        shift: In [0, 30]. No product of q, times the multiplier and shifted, is beyond 2^27 in magnitude.

    Returns:
        int32 [B, H, N, N].
    """
    products = integer_matmul(split_heads(q, scores.shape[1]), relative.transpose(-1, -2), 128 * 128)
    steps = rounding_shift_right(products * multiplier, shift).to(torch.int32)
    return scores + _spread(steps, rows, columns)
