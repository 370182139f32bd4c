"""Rounding to a grid, with gradients for the values and for the grid."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..ops.attention import LARGEST_LINEAR_CODE, LOG2_ZERO_CODE


class _RoundToGrid(torch.autograd.Function):
    """One pass over the data less than the same written in operators, and one byte and a half float kept a value."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, scale: torch.Tensor, low: int, high: int, unrounded: torch.Tensor | None
    ) -> torch.Tensor:
        position = x / scale
        rounded = position.round()
        if unrounded is not None:
            rounded = torch.where(unrounded, position, rounded)
        codes = rounded.clamp(low, high)
        inside = codes == rounded
        ctx.save_for_backward(inside, position.mul_(inside).neg_().add_(codes), scale)
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        inside, by_scale, scale = ctx.saved_tensors
        scale_gradient = None
        if ctx.needs_input_grad[1]:
            if scale.numel() == 1:
                scale_gradient = torch.dot(gradient.reshape(-1), by_scale.reshape(-1)).reshape(scale.shape)
            else:
                scale_gradient = (gradient * by_scale).sum_to_size(scale.shape)
        return gradient * inside if ctx.needs_input_grad[0] else None, scale_gradient, None, None, None


def round_to_grid(
    x: torch.Tensor, scale: torch.Tensor, low: int, high: int, unrounded: torch.Tensor | None = None
) -> torch.Tensor:
    """clamp(round(x / scale), low, high) * scale.

    The gradient passes straight through where x is not clipped. That of the scale is round(x / scale) - x / scale
    where x is not clipped, and the clipped code elsewhere.

    Source: Esser et al., "Learned Step Size Quantization", ICLR 2020, eq. 2, 3 and 5.

    Args:
        x: float32, any shape.
        scale: float32, broadcasts against x.
        low: Smallest code, counted from the code of 0.
        high: Largest code.
        unrounded: bool, broadcasts against x: values that are clipped, but not rounded; None: none of them.

    Returns:
        float32 of x's shape: a grid is exact also where torch.autocast computes in less.
    """
    result: torch.Tensor = _RoundToGrid.apply(x.float(), scale, low, high, unrounded)
    return result


class _RoundProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, log2: bool) -> torch.Tensor:
        if log2:
            exponent = torch.log2(x).round_()
            return torch.exp2(exponent).mul_(exponent > -LOG2_ZERO_CODE + 0.5)
        codes = (x * (LARGEST_LINEAR_CODE / x.amax(-1, keepdim=True))).round_()
        return codes.div_(codes.sum(-1, keepdim=True))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def round_probabilities(x: torch.Tensor, log2: bool) -> torch.Tensor:
    """Probabilities on the grid of their codes, with a straight-through gradient.

    Args:
        x: float32 in [0, 1], [..., keys]; each row adds up to 1.
        log2: Powers of two down to 2^-14, and 0; else 256 steps up to the row's largest, over their sum.

    Returns:
        float32 of x's shape.
    """
    result: torch.Tensor = _RoundProbabilities.apply(x.float(), log2)
    return result


def log_scale(scale: float) -> torch.Tensor:
    """What is learned of a scale: its logarithm, so that it stays positive and one learning rate serves all."""
    return torch.tensor(math.log(scale))
