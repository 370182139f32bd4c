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


def recoloured(images: torch.Tensor, strength: float, generator: torch.Generator) -> torch.Tensor:
    """Images of other brightness, contrast and saturation, within the extremes of each.

    Contrast and saturation change by a factor of up to e^strength, up or down, brightness by up to `strength` standard
    deviations of the image. All three are linear, so that they mean the same for pixels and for normalised images.

    Args:
        images: float32 [B, C, H, W].
        strength: At least 0; 0: images stay as they are.
        generator: Draws the changes; on the CPU.

    Returns:
        float32 [B, C, H, W].
    """
    if strength == 0:
        return images
    draws = strength * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = draws[0], draws[1].exp(), draws[2].exp()
    mean, deviation = images.mean((1, 2, 3), keepdim=True), images.std((1, 2, 3), keepdim=True)
    changed = mean + brightness * deviation + contrast * (images - mean)
    grey = changed.mean(1, keepdim=True)
    changed = grey + saturation * (changed - grey)
    return changed.clamp(images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True))


def patched(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Some images with a rectangle of another one of the batch in them, of any size (CutMix, Yun et al., ICCV 2019).

    Args:
        images: float32 [B, C, H, W].
        share: Of the images that get one, in [0, 1].
        generator: Draws images and rectangles; on the CPU.

    Returns:
        float32 [B, C, H, W].
    """
    if share == 0 or len(images) == 1:
        return images
    height, width = images.shape[-2:]
    result = images.clone()
    for image, other, draw in zip(
        result, images.roll(1, 0), torch.rand(len(images), 4, generator=generator), strict=True
    ):
        chance, area, top, left = draw.tolist()
        if chance >= share:
            continue
        rows, columns = round(height * math.sqrt(area)), round(width * math.sqrt(area))
        first_row, first_column = int(top * (height - rows + 1)), int(left * (width - columns + 1))
        window = (..., slice(first_row, first_row + rows), slice(first_column, first_column + columns))
        image[window] = other[window]
    return result
