"""Linear layers on codes, with their three epilogues, and the patch embedding, which is a linear on patches."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import integer_matmul, requantize, scale_accumulator
from .library import code_dtype, integer_op
from .residual import onto_residual, scale_residual

_WEIGHT_BOUND = {4: 7, 8: 127}


def _accumulate(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, weight_bits: int) -> torch.Tensor:
    return integer_matmul(x, weight.t(), 128 * _WEIGHT_BOUND[weight_bits]) + bias.long()


def _linear_meta(
    x: Any,
    weight: Any,
    bias: Any,
    multiplier: Any,
    shift: Any,
    weight_bits: Any,
    left_shift: Any,
    fraction_bits: Any,
    zero_point: Any,
    qmin: Any,
    qmax: Any,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=code_dtype(qmin, qmax))


@integer_op(
    "linear(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, Tensor shift, int weight_bits, "
    "int left_shift, int fraction_bits, int zero_point, int qmin, int qmax) -> Tensor",
    _linear_meta,
)
def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    weight_bits: int,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Linear layer, requantised onto an affine grid (docs/numerics.md, linear, Requantize).

    With 16 bits, a residual stream begins with it.

    Args:
        x: int8 [..., K].
        weight: int8 [O, K], in [-7, 7] for 4 bits.
        bias: int32 [O] in accumulator steps, the input's zero point folded in.
        multiplier: int16 [O].
        shift: uint8 [O].
        weight_bits: 4 or 8.
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for int16.
        zero_point: Of the output; 0 for int16.
        qmin: Smallest output code; -32768 for int16.
        qmax: Largest output code; 32767 for int16.

    Returns:
        int8 [..., O], or int16 where [qmin, qmax] does not fit into int8.
    """
    codes = requantize(
        _accumulate(x, weight, bias, weight_bits), multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax
    )
    return codes.to(code_dtype(qmin, qmax))


def _linear_add_meta(
    x: Any,
    weight: Any,
    bias: Any,
    multiplier: Any,
    shift: Any,
    residual: Any,
    residual_multiplier: Any,
    weight_bits: Any,
    left_shift: Any,
    fraction_bits: Any,
) -> torch.Tensor:
    return torch.empty_like(residual)


@integer_op(
    "linear_add(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, Tensor shift, Tensor residual, "
    "Tensor residual_multiplier, int weight_bits, int left_shift, int fraction_bits) -> Tensor",
    _linear_add_meta,
)
def linear_add(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    residual: torch.Tensor,
    residual_multiplier: torch.Tensor,
    weight_bits: int,
    left_shift: int,
    fraction_bits: int,
) -> torch.Tensor:
    """Linear layer whose accumulator is added into the residual stream without a grid of its own in between.

    Args:
        x: int8 [..., K].
        weight: int8 [O, K].
        bias: int32 [O].
        multiplier: int16 [O], accumulator to residual steps.
        shift: uint8 [O].
        residual: int8 or int16 [..., O].
        residual_multiplier: int16 [O] >= 0, old to new residual steps; UNIT_RESIDUAL keeps them.
        weight_bits: 4 or 8.
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for an int16 residual.

    Returns:
        [..., O] of the residual's type.
    """
    branch = scale_accumulator(_accumulate(x, weight, bias, weight_bits), multiplier, shift, left_shift)
    base = scale_residual(residual, residual_multiplier)
    return onto_residual(base, branch, fraction_bits, residual.dtype)


def _linear_accumulate_meta(x: Any, weight: Any, bias: Any, weight_bits: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


@integer_op(
    "linear_accumulate(Tensor x, Tensor weight, Tensor bias, int weight_bits) -> Tensor", _linear_accumulate_meta
)
def linear_accumulate(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, weight_bits: int) -> torch.Tensor:
    """Linear layer that returns its accumulators: the classifier, whose logits need no grid.

    Args:
        x: int8 [..., K].
        weight: int8 [O, K].
        bias: int32 [O].
        weight_bits: 4 or 8.

    Returns:
        int32 [..., O].
    """
    return _accumulate(x, weight, bias, weight_bits).to(torch.int32)


def _patch_embedding_meta(
    x: Any,
    weight: Any,
    bias: Any,
    multiplier: Any,
    shift: Any,
    position: Any,
    prefix: Any,
    patch_height: Any,
    patch_width: Any,
    weight_bits: Any,
    left_shift: Any,
    fraction_bits: Any,
) -> torch.Tensor:
    tokens = position.shape[0] + prefix.shape[0]
    return x.new_empty((x.shape[0], tokens, weight.shape[0]), dtype=prefix.dtype)


@integer_op(
    "patch_embedding(Tensor x, Tensor weight, Tensor bias, Tensor multiplier, Tensor shift, Tensor position, "
    "Tensor prefix, int patch_height, int patch_width, int weight_bits, int left_shift, int fraction_bits) -> Tensor",
    _patch_embedding_meta,
)
def patch_embedding(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    position: torch.Tensor,
    prefix: torch.Tensor,
    patch_height: int,
    patch_width: int,
    weight_bits: int,
    left_shift: int,
    fraction_bits: int,
) -> torch.Tensor:
    """Image codes to the first residual stream: patches, position embedding, prefix tokens.

    Args:
        x: int8 [B, C, h, w].
        weight: int8 [D, C * patch_height * patch_width], features in (channel, row, column) order.
        bias: int32 [D].
        multiplier: int16 [D].
        shift: uint8 [D].
        position: int16 [P, D], position embedding on the output grid times 2^fraction_bits.
        prefix: int8 or int16 [T, D], codes of the prefix tokens; T may be 0. Its type is the output's.
        patch_height: Patch size, vertically; rows of pixels below the last whole patch are not read.
        patch_width: Patch size, horizontally; columns to the right of the last whole patch are not read.
        weight_bits: 4 or 8.
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for an int16 output.

    Returns:
        [B, T + P, D] of prefix's type.
    """
    batch, channels, height, width = x.shape
    rows, columns = height // patch_height, width // patch_width
    x = x[:, :, : rows * patch_height, : columns * patch_width]
    patches = x.reshape(batch, channels, rows, patch_height, columns, patch_width)
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, -1)
    branch = scale_accumulator(_accumulate(patches, weight, bias, weight_bits), multiplier, shift, left_shift)
    tokens = onto_residual(position.long(), branch, fraction_bits, prefix.dtype)
    return torch.cat([prefix.expand(batch, *prefix.shape), tokens], 1)
