"""Other views of an image."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

_ASPECT = 0.2
"""Crops are up to e^0.2 times as wide as high, or the other way round."""


def random_views(images: torch.Tensor, smallest: float, generator: torch.Generator) -> torch.Tensor:
    """A random crop of each image, scaled to its full size, and half of them mirrored.

    Args:
        images: float32 [B, C, H, W].
        smallest: Area of the smallest crop as a share of the image, in (0, 1]; 1: images are only mirrored.
        generator: Draws the crops; on the CPU.

    Returns:
        float32 [B, C, H, W].
    """
    return torch.cat([_view(image, smallest, generator) for image in images.split(1)])


def _view(image: torch.Tensor, smallest: float, generator: torch.Generator) -> torch.Tensor:
    height, width = image.shape[-2:]
    area, aspect, top, left, mirror = torch.rand(5, generator=generator).tolist()
    side = math.sqrt(smallest + (1 - smallest) * area)
    stretch = math.exp((2 * aspect - 1) * _ASPECT) if smallest < 1 else 1.0
    rows = max(1, min(height, round(height * side * stretch)))
    columns = max(1, min(width, round(width * side / stretch)))
    first_row, first_column = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    view = image[:, :, first_row : first_row + rows, first_column : first_column + columns]
    if (rows, columns) != (height, width):
        view = functional.interpolate(view, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return view.flip(-1) if mirror < 0.5 else view
