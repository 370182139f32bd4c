"""Other views of an image."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

_ASPECT = 0.2
"""Crops are up to e^0.2 times as wide as high, or the other way round."""


def random_views(
    images: torch.Tensor, smallest: float, generator: torch.Generator, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """A random crop of each image, scaled to one size, and half of them mirrored.

    Args:
        images: float32 [B, C, H, W].
        smallest: Area of the smallest crop as a share of the image, in (0, 1]; 1: images are scaled and mirrored.
        generator: Draws the crops; on the CPU.
        size: Height and width of the views; None: those of the images.

    Returns:
        float32 [B, C, *size].
    """
    size = size or (images.shape[-2], images.shape[-1])
    return torch.cat([_view(image, smallest, generator, size) for image in images.split(1)])


def blended(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Some images mixed with another one of the batch, each with a weight of its own, uniform in [0, 1].

    Source: Zhang et al., "mixup", ICLR 2018; without labels, for a teacher that sees the same mixture: Beyer et al.,
    "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022.

    Args:
        images: float32 [B, C, H, W].
        share: Of the images that are mixed, in [0, 1].
        generator: Draws them, their partners and their weights; on the CPU.

    Returns:
        float32 [B, C, H, W].
    """
    partners, chosen = _partners(len(images), share, generator)
    kept = torch.where(chosen, torch.rand(len(images), generator=generator), 1.0)
    kept = kept.to(images.device, images.dtype).reshape(-1, 1, 1, 1)
    return torch.lerp(images[partners], images, kept)


def pasted(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Some images with a rectangle of another one of the batch, at the same place, of an area uniform in [0, 1].

    Source: Yun et al., "CutMix", ICCV 2019; without labels, for a teacher that sees the same picture.

    Args:
        images: float32 [B, C, H, W].
        share: Of the images that get one, in [0, 1].
        generator: Draws them, their partners and the rectangles; on the CPU.

    Returns:
        float32 [B, C, H, W].
    """
    partners, chosen = _partners(len(images), share, generator)
    result = images.clone()
    height, width = images.shape[-2:]
    for index in chosen.nonzero().flatten().tolist():
        area, top, left = torch.rand(3, generator=generator).tolist()
        rows, columns = (round(side * math.sqrt(area)) for side in (height, width))
        first_row, first_column = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        place = (..., slice(first_row, first_row + rows), slice(first_column, first_column + columns))
        result[index][place] = images[partners[index]][place]
    return result


def _partners(count: int, share: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of another image for each, and which images are chosen."""
    partners = torch.randperm(count, generator=generator)
    return partners, torch.rand(count, generator=generator) < share


def _view(image: torch.Tensor, smallest: float, generator: torch.Generator, size: tuple[int, int]) -> torch.Tensor:
    height, width = image.shape[-2:]
    area, aspect, top, left, mirror = torch.rand(5, generator=generator).tolist()
    side = math.sqrt(smallest + (1 - smallest) * area)
    stretch = math.exp((2 * aspect - 1) * _ASPECT) if smallest < 1 else 1.0
    rows = max(1, min(height, round(height * side * stretch)))
    columns = max(1, min(width, round(width * side / stretch)))
    first_row, first_column = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    view = image[:, :, first_row : first_row + rows, first_column : first_column + columns]
    if (rows, columns) != size:
        view = functional.interpolate(view, size, mode="bilinear", antialias=True, align_corners=False)
    return view.flip(-1) if mirror < 0.5 else view
