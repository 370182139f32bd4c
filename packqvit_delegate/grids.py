"""What codes mean: the grids of docs/numerics.md, as the integer lowering carries them from node to node."""

from __future__ import annotations

import dataclasses

import torch

from .ops.simulated import dequantize_probabilities


@dataclasses.dataclass(frozen=True)
class AffineGrid:
    """value = scale * (code - zero_point), int8.

    Attributes:
        scale: Value of one step.
        zero_point: Code of 0.
        qmin: Smallest code.
        qmax: Largest code.
    """

    scale: float
    zero_point: int
    qmin: int
    qmax: int


@dataclasses.dataclass(frozen=True)
class OffsetGrid:
    """value = scale * code + offset[c], int8: the pixels of an image.

    Attributes:
        scale: Value of one step, the same for all channels.
        offset: float64 [C], value of code 0.
    """

    scale: float
    offset: torch.Tensor


@dataclasses.dataclass(frozen=True)
class ResidualGrid:
    """value = scale * (code << shift[c]), int8; value = scale * code, int16.

    Attributes:
        scale: Value of one step of a channel whose shift is 0.
        shift: uint8 [C], or None when there is none.
        dtype: torch.int8 or torch.int16.
    """

    scale: float
    shift: torch.Tensor | None
    dtype: torch.dtype

    def channel_scales(self, channels: int) -> torch.Tensor:
        """Value of one step per channel, float64 [channels]."""
        scales = torch.full((channels,), self.scale, dtype=torch.float64)
        return scales if self.shift is None else scales * torch.exp2(self.shift.double())


@dataclasses.dataclass(frozen=True)
class ProbabilityGrid:
    """Attention probabilities, uint8: 2^-code (15 is zero) when log2, else code over the sum of its row's codes."""

    log2: bool


Grid = AffineGrid | OffsetGrid | ResidualGrid | ProbabilityGrid


def values_of(codes: torch.Tensor, grid: Grid) -> torch.Tensor:
    """What codes stand for.

    Args:
        codes: int8, int16 or uint8, any shape; images have their channels on axis 1, all others on the last.
        grid: What one step is.

    Returns:
        float32 of the same shape.
    """
    if isinstance(grid, ProbabilityGrid):
        return dequantize_probabilities(codes, grid.log2)
    if isinstance(grid, AffineGrid):
        return (codes.float() - grid.zero_point) * grid.scale
    if isinstance(grid, OffsetGrid):
        return codes.float() * grid.scale + grid.offset.float().reshape(-1, *[1] * (codes.ndim - 2))
    return codes.float() * grid.channel_scales(codes.shape[-1]).float()
