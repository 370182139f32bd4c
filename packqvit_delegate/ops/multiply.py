"""The product of two activations: gated MLPs, as SwiGLU (Shazeer, GLU Variants Improve Transformer, 2020)."""

from __future__ import annotations

from typing import Any

import torch

from .arithmetic import requantize, rounding_shift_right, saturate16
from .library import code_dtype, integer_op


def _multiply_meta(
    x: Any,
    y: Any,
    x_zero_point: Any,
    y_zero_point: Any,
    product_shift: Any,
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
    "multiply(Tensor x, Tensor y, int x_zero_point, int y_zero_point, int product_shift, Tensor multiplier, "
    "Tensor shift, int left_shift, int fraction_bits, int zero_point, int qmin, int qmax) -> Tensor",
    _multiply_meta,
)
def multiply(
    x: torch.Tensor,
    y: torch.Tensor,
    x_zero_point: int,
    y_zero_point: int,
    product_shift: int,
    multiplier: torch.Tensor,
    shift: torch.Tensor,
    left_shift: int,
    fraction_bits: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> torch.Tensor:
    """Products of codes, element by element.

    Args:
        x: int8 or int16 [..., C].
        y: int8 or int16 [..., C].
        x_zero_point: Of x; 0 for int16.
        y_zero_point: Of y; 0 for int16.
        product_shift: What brings products into int16, in 0..15.
        multiplier: int16 [C].
        shift: uint8 [C].
        left_shift: l of the requantisation.
        fraction_bits: F of the requantisation; 0 for an int16 output.
        zero_point: Of the output.
        qmin: Smallest output code.
        qmax: Largest output code.

    Returns:
        [..., C], int8, or int16 where [qmin, qmax] does not fit.
    """
    product = (x.long() - x_zero_point) * (y.long() - y_zero_point)
    words = saturate16(rounding_shift_right(product, product_shift))
    codes = requantize(words, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax)
    return codes.to(code_dtype(qmin, qmax))
