"""Int-LayerNorm, alone, added into the residual stream, and of the heads of an attention."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import bit_length, integer_sqrt, multiply_high, rounding_shift_right, saturate16
from .library import code_dtype, integer_op
from .residual import onto_residual, scale_residual


def normalized_fraction_bits(channels: int) -> int:
    """Q: fraction bits of (x - mean) / sigma, whose magnitude stays below sqrt(channels).

    Twice as much fits into 16 bits: so large are the values that the reciprocal, between a half and one, multiplies.
    """
    return 14 - ((channels - 1).bit_length() + 1) // 2


def _normalize(
    x: torch.Tensor,
    channel_shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: int,
    output_shift: int,
    centred: bool = True,
) -> torch.Tensor:
    """`v` of docs/numerics.md: the affine normalised values, before anything clamps them; |v| < 2^30."""
    values = x.long()
    if channel_shift is not None:
        values = values << channel_shift.long()
    channels = x.shape[-1]
    total = values.sum(-1, keepdim=True) if centred else values.new_zeros(())
    squares = (values * values).sum(-1, keepdim=True)
    mean = torch.div(total * 8192 + channels, 2 * channels, rounding_mode="floor")
    variance = (channels * squares - total * total + epsilon).clamp_min(1)
    half_shift = (62 - bit_length(variance)) // 2  # the even shift that brings it into [2^60, 2^62)
    root = integer_sqrt(variance << (2 * half_shift))
    quotient = torch.div(torch.full_like(root, channels << 48), root, rounding_mode="floor")
    drop = bit_length(quotient) - 15
    reciprocal = rounding_shift_right(quotient, drop)
    carried = reciprocal == 1 << 15
    reciprocal = torch.where(carried, 1 << 14, reciprocal)
    drop = torch.where(carried, drop + 1, drop)
    shift = (45 - drop - half_shift - normalized_fraction_bits(channels)).clamp_max(31)
    deviation = ((values << 12) - mean) << (-shift).clamp_min(0)
    deviation = saturate16(rounding_shift_right(deviation, shift.clamp_min(0)))
    normalized = multiply_high(deviation, reciprocal)
    return (normalized * weight.long() + bias.long()) >> output_shift


def _layer_norm_meta(
    x: Any, channel_shift: Any, weight: Any, bias: Any, epsilon: Any, output_shift: Any, qmin: Any, qmax: Any
) -> torch.Tensor:
    return torch.empty_like(x, dtype=code_dtype(qmin, qmax))


@integer_op(
    "layer_norm(Tensor x, Tensor? channel_shift, Tensor weight, Tensor bias, int epsilon, int output_shift, "
    "int qmin, int qmax) -> Tensor",
    _layer_norm_meta,
)
def layer_norm(
    x: torch.Tensor,
    channel_shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    epsilon: int,
    output_shift: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Int-LayerNorm over the last axis (PackQViT, NeurIPS 2023; docs/numerics.md, layer_norm).

    Mean, variance and square root are exact integers; the reciprocal has 15 bits.

    Args:
        x: int8 or int16 [..., C], residual codes.
        channel_shift: uint8 [C], in 0..7: channel c counts 2^channel_shift[c] steps. None: all zero.
        weight: int16 [C], gamma over the output step times 2^(output_shift - Q).
        bias: int32 [C], beta over the output step plus the zero point, times 2^output_shift, plus the rounding half.
        epsilon: eps / step^2 * C^2.
        output_shift: S, in 1..30.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        int8 [..., C], or int16 where [qmin, qmax] does not fit into int8: a stream that begins here.
    """
    steps = _normalize(x, channel_shift, weight, bias, epsilon, output_shift)
    return steps.clamp(qmin, qmax).to(code_dtype(qmin, qmax))


def _layer_norm_add_meta(
    x: Any,
    channel_shift: Any,
    weight: Any,
    bias: Any,
    residual: Any,
    residual_multiplier: Any,
    epsilon: Any,
    output_shift: Any,
    fraction_bits: Any,
) -> torch.Tensor:
    return torch.empty_like(residual)


@integer_op(
    "layer_norm_add(Tensor x, Tensor? channel_shift, Tensor weight, Tensor bias, Tensor residual, "
    "Tensor residual_multiplier, int epsilon, int output_shift, int fraction_bits) -> Tensor",
    _layer_norm_add_meta,
)
def layer_norm_add(
    x: torch.Tensor,
    channel_shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor,
    residual_multiplier: torch.Tensor,
    epsilon: int,
    output_shift: int,
    fraction_bits: int,
) -> torch.Tensor:
    """Int-LayerNorm of a branch that is added into the residual stream without a grid of its own in between.

    Args:
        x: int8 or int16 [..., C], a branch or residual codes.
        channel_shift: As of layer_norm.
        weight: int16 [C], gamma over the output step times 2^(output_shift + fraction_bits - Q).
        bias: int32 [C], beta over the output step times 2^(output_shift + fraction_bits), plus 2^(output_shift - 1).
        residual: int8 or int16 [..., C].
        residual_multiplier: int16 [C] >= 0, old to new residual steps; UNIT_RESIDUAL keeps them.
        epsilon: eps / step^2 * C^2, of the steps of x.
        output_shift: S, in 1..30.
        fraction_bits: F, in 0..6; 0 for an int16 residual.

    Returns:
        [..., C] of the residual's type.
    """
    branch = _normalize(x, channel_shift, weight, bias, epsilon, output_shift)
    return onto_residual(scale_residual(residual, residual_multiplier), branch, fraction_bits, residual.dtype)


def _head_norm_meta(
    x: Any,
    weight: Any,
    bias: Any,
    heads: Any,
    centred: Any,
    epsilon: Any,
    output_shift: Any,
    qmin: Any,
    qmax: Any,
) -> torch.Tensor:
    return torch.empty_like(x, dtype=code_dtype(qmin, qmax))


@integer_op(
    "head_norm(Tensor x, Tensor weight, Tensor bias, int heads, bool centred, int epsilon, int output_shift, "
    "int qmin, int qmax) -> Tensor",
    _head_norm_meta,
)
def head_norm(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    heads: int,
    centred: bool,
    epsilon: int,
    output_shift: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Int-LayerNorm of q or k, each head by itself; without the mean where it is an RMSNorm, as in cosine attention.

    With one head it is the RMSNorm, or the L2 normalisation, of whole rows.

    Args:
        x: int8 or int16 [..., H * d].
        weight: int16 [H * d], gamma over the output step times 2^(output_shift - Q), Q of d channels.
        bias: int32 [H * d], as of layer_norm.
        heads: H.
        centred: Whether the mean is taken out.
        epsilon: eps / step^2 * d^2.
        output_shift: S, in 1..30.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        int8 [..., H * d], or int16 where [qmin, qmax] does not fit into int8.
    """
    split = (heads, x.shape[-1] // heads)
    by_head = (x.unflatten(-1, split), None, weight.reshape(split), bias.reshape(split))
    steps = _normalize(*by_head, epsilon, output_shift, centred).flatten(-2)
    return steps.clamp(qmin, qmax).to(code_dtype(qmin, qmax))
