"""The two ends of an integer region: float32 to codes, codes to float32."""

from __future__ import annotations

from typing import Any

import torch

from .library import code_dtype, integer_op


def _along(vector: torch.Tensor, axis: int, ndim: int) -> torch.Tensor:
    if vector.numel() == 1:
        return vector.reshape([1] * ndim)
    behind = ndim - axis % ndim - vector.ndim
    return vector.reshape(*vector.shape, *[1] * behind)


def _quantize_meta(x: Any, inverse_scale: Any, offset: Any, axis: Any, qmin: Any, qmax: Any) -> torch.Tensor:
    return torch.empty_like(x, dtype=code_dtype(qmin, qmax))


@integer_op(
    "quantize(Tensor x, Tensor inverse_scale, Tensor offset, int axis, int qmin, int qmax) -> Tensor", _quantize_meta
)
def quantize(
    x: torch.Tensor, inverse_scale: torch.Tensor, offset: torch.Tensor, axis: int, qmin: int, qmax: int
) -> torch.Tensor:
    """Float32 values to codes: clamp(rint((x - offset) * inverse_scale), qmin, qmax).

    Args:
        x: float32, any shape. NaN becomes the code nearest to 0.
        inverse_scale: float32 [1] or [C], codes per unit; or [N, C], where N is of the axis `axis` and C of the next.
        offset: float32 [1], [C] or [N, C], the value of code 0.
        axis: The axis of x that C, or N, runs along.
        qmin: Smallest code.
        qmax: Largest code.

    Returns:
        int8 of x's shape, or int16 when [qmin, qmax] does not fit.
    """
    scaled = (x - _along(offset, axis, x.ndim)) * _along(inverse_scale, axis, x.ndim)
    codes = torch.nan_to_num(torch.round(scaled), nan=0.0, posinf=float(qmax), neginf=float(qmin)).clamp(qmin, qmax)
    return codes.to(code_dtype(qmin, qmax))


def _dequantize_meta(x: Any, scale: Any, zero_point: Any, axis: Any, channels_first: Any = False) -> torch.Tensor:
    shape = (x.shape[0], x.shape[-1], *x.shape[1:-1]) if channels_first else x.shape
    return torch.empty(shape, dtype=torch.float32, device=x.device)


@integer_op(
    "dequantize(Tensor x, Tensor scale, int zero_point, int axis, bool channels_first=False) -> Tensor",
    _dequantize_meta,
)
def dequantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: int, axis: int, channels_first: bool = False
) -> torch.Tensor:
    """Codes or accumulators to float32: float32(x - zero_point) * scale.

    Args:
        x: int8, int16 or int32, any shape.
        scale: float32 [1] or [C].
        zero_point: The code of 0.0 (0 for int32).
        axis: The axis of x that C runs along.
        channels_first: x is [P, ..., C], and the result has its channels in front: maps leave as a convolution's do.

    Returns:
        float32 of x's shape, or [P, C, ...].
    """
    values = (x.long() - zero_point).to(torch.float32) * _along(scale, axis, x.ndim)
    return values.movedim(-1, 1).contiguous() if channels_first else values
