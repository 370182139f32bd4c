"""Operators on single codes and on tokens: look-up table, requantisation, sums of streams, token selection."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import requantize, scale_accumulator
from .library import code_dtype, integer_op
from .residual import onto_residual, scale_residual


def _lookup_table_meta(x: Any, table: Any) -> torch.Tensor:
    return torch.empty_like(x)


@integer_op("lookup_table(Tensor x, Tensor table) -> Tensor", _lookup_table_meta)
def lookup_table(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Any function of one code: integer GELU, exact to the output grid.

    Args:
        x: int8, any shape.
        table: int8 [256], indexed by code + 128.

    Returns:
        int8 of x's shape.
    """
    return table[x.long() + 128]


def _requantize_meta(
    x: Any,
    multiplier: Any,
    shift: Any,
    left_shift: Any,
    fraction_bits: Any,
    zero_point: Any,
    qmin: Any,
    qmax: Any,
) -> torch.Tensor:
    return torch.empty_like(x, dtype=code_dtype(qmin, qmax))


@integer_op(
    "requantize(Tensor x, Tensor multiplier, Tensor shift, int left_shift, int fraction_bits, int zero_point, "
    "int qmin, int qmax) -> Tensor",
    _requantize_meta,
)
def requantize_codes(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Codes of a residual stream as linear layers read them.

    Args:
        x: int8 or int16 [..., C], on grids around 0.
        multiplier: int16 [C].
        shift: uint8 [C].
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for an int16 output.
        zero_point: Of the output.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        [..., C], int8, or int16 when [qmin, qmax] does not fit.
    """
    codes = requantize(x.long(), multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax)
    return codes.to(code_dtype(qmin, qmax))


def _requantize_add_meta(
    x: Any,
    multiplier: Any,
    shift: Any,
    residual: Any,
    residual_multiplier: Any,
    left_shift: Any,
    fraction_bits: Any,
) -> torch.Tensor:
    return torch.empty_like(residual)


@integer_op(
    "requantize_add(Tensor x, Tensor multiplier, Tensor shift, Tensor residual, Tensor residual_multiplier, "
    "int left_shift, int fraction_bits) -> Tensor",
    _requantize_add_meta,
)
def requantize_add(
    x: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    residual: torch.Tensor,
    residual_multiplier: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
) -> torch.Tensor:
    """The sum of two residual streams, each times a constant.

    Args:
        x: int8 or int16 [..., C], on a grid around 0.
        multiplier: int16 [C].
        shift: uint8 [C].
        residual: int8 or int16 [..., C], on a grid around 0.
        residual_multiplier: int16 [C] >= 0, old to new residual steps; UNIT_RESIDUAL keeps them.
        left_shift: l of the requantisation.
        fraction_bits: F, in 0..6; 0 for an int16 residual.

    Returns:
        [..., C] of the residual's type.
    """
    branch = scale_accumulator(x.long(), multiplier, shift, left_shift)
    return onto_residual(scale_residual(residual, residual_multiplier), branch, fraction_bits, residual.dtype)


def _repeat_tokens_meta(tokens: Any, like: Any) -> torch.Tensor:
    return tokens.new_empty((like.shape[0], *tokens.shape[1:]))


@integer_op("repeat_tokens(Tensor tokens, Tensor like) -> Tensor", _repeat_tokens_meta)
def repeat_tokens(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Constant tokens, the same for all images: a residual stream that begins with them.

    Args:
        tokens: int8 or int16 [1, ..., C].
        like: Any type, [B, ...]: tells how many images there are.

    Returns:
        [B, ..., C] of the type of `tokens`.
    """
    return tokens.repeat(like.shape[0], *[1] * (tokens.dim() - 1))


def _join_tokens_meta(x: Any, y: Any) -> torch.Tensor:
    return x.new_empty((x.shape[0], x.shape[1] + y.shape[1], x.shape[2]))


@integer_op("join_tokens(Tensor x, Tensor y) -> Tensor", _join_tokens_meta)
def join_tokens(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Tokens of one value and those of another behind them, on one grid.

    Args:
        x: int8 or int16 [B, N, C].
        y: [B, M, C] of x's type.

    Returns:
        [B, N + M, C] of x's type.
    """
    return torch.cat([x, y], 1)


def _select_tokens_meta(x: Any, index: Any, fill: Any = 0) -> torch.Tensor:
    return x.new_empty((x.shape[0], len(index), x.shape[2]))


@integer_op("select_tokens(Tensor x, int[] index, int fill=0) -> Tensor", _select_tokens_meta)
def select_tokens(x: torch.Tensor, index: list[int], fill: int = 0) -> torch.Tensor:
    """Tokens by index.

    Args:
        x: Any integer type, [B, N, C].
        index: M token indices, each in [0, N), or -1 for a token that a pad puts in.
        fill: The codes of such a token: what stands for 0.

    Returns:
        [B, M, C] of x's type.
    """
    order = torch.tensor(list(index))
    return x[:, order].masked_fill((order < 0).unsqueeze(1), fill)
