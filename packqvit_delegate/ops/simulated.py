"""Quantisers that the graph holds between convert_pt2e and the integer lowering, simulated in float32.

They complete what `quantized_decomposed` has: offsets and scales per channel, and probability codes. None of them is
left in an integer graph.
"""

from __future__ import annotations

from typing import Any

import torch

from .attention import LARGEST_LINEAR_CODE, LOG2_ZERO_CODE
from .library import integer_op
from .quantize import _along, _quantize_meta, quantize

_TINY = 1e-30  # a row without any probability has the codes 0

integer_op(
    "quantize_offset(Tensor x, Tensor inverse_scale, Tensor offset, int axis, int qmin, int qmax) -> Tensor",
    _quantize_meta,
)(quantize)
"""`quantize` under a name of its own: what an integer graph holds is not what is still to be lowered."""


def _dequantize_offset_meta(x: Any, scale: Any, offset: Any, axis: Any) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.float32)


@integer_op("dequantize_offset(Tensor x, Tensor scale, Tensor offset, int axis) -> Tensor", _dequantize_offset_meta)
def dequantize_offset(x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, axis: int) -> torch.Tensor:
    """Inverse of `quantize_offset`: x * scale + offset.

    Args:
        x: int8 or int16, any shape.
        scale: float32 [1] or [C].
        offset: float32 [1] or [C], the value of code 0.
        axis: The axis of x that C runs along.

    Returns:
        float32 of x's shape.
    """
    return x.to(torch.float32) * _along(scale, axis, x.ndim) + _along(offset, axis, x.ndim)


def _quantize_probabilities_meta(x: Any, log2: Any) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@integer_op("quantize_probabilities(Tensor x, bool log2) -> Tensor", _quantize_probabilities_meta)
def quantize_probabilities(x: torch.Tensor, log2: bool) -> torch.Tensor:
    """Probabilities to codes: round(-log2 x) in 0..15, or round(255 x / max x) in 0..255.

    Args:
        x: float32 in [0, 1], [..., keys].
        log2: Log2 codes (p = 2^-code, 15 = zero) or linear ones (p = code over the sum of the row's codes).

    Returns:
        uint8 of x's shape.
    """
    if log2:
        codes = torch.round(-torch.log2(x.clamp_min(2.0**-LOG2_ZERO_CODE))).clamp(0, LOG2_ZERO_CODE)
    else:
        codes = torch.round(x * (LARGEST_LINEAR_CODE / x.amax(-1, keepdim=True).clamp_min(_TINY)))
    return codes.to(torch.uint8)


def _dequantize_probabilities_meta(x: Any, log2: Any) -> torch.Tensor:
    return torch.empty_like(x, dtype=torch.float32)


@integer_op("dequantize_probabilities(Tensor x, bool log2) -> Tensor", _dequantize_probabilities_meta)
def dequantize_probabilities(x: torch.Tensor, log2: bool) -> torch.Tensor:
    """Inverse of `quantize_probabilities`.

    Args:
        x: uint8 codes, [..., keys].
        log2: What the codes mean.

    Returns:
        float32 of x's shape.
    """
    values = x.to(torch.float32)
    if log2:
        return torch.where(x < LOG2_ZERO_CODE, torch.exp2(-values), torch.zeros_like(values))
    return values / values.sum(-1, keepdim=True).clamp_min(1)
