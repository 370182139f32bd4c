"""Real values of the codes that an integer graph passes on."""

from __future__ import annotations

import torch

from ..grids import AffineGrid, Grid, OffsetGrid, ProbabilityGrid
from ..ops.simulated import dequantize_probabilities


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
