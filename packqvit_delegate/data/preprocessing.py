"""From an image file to a model's input: resize, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from packqvit_delegate.arguments import check_fields, checked
from packqvit_delegate.errors import PackQViTError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Beyond this the centre crop shows next to nothing of the image, and the resized image may not fit into memory.
MAX_ASPECT_RATIO = 100


@checked
def open_image(path: str | Path) -> Image.Image:
    """Reads one image file as RGB.

    Raises:
        PackQViTError: the file cannot be read as an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                raise ValueError(f"{width} x {height} pixels are too elongated for a centre crop")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PackQViTError(
            f"cannot read the image {path}: {error}; replace the file or take it out of the folder "
            "(and out of labels.csv, where there is one)"
        ) from error


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `int(size / crop_fraction)` (bicubic), centre crop to `size`, then `(x / 255 - mean) / std`.

    `crop_fraction` 0.9 is what timm evaluates its 224-pixel ViT and DeiT with.
    """

    size: int = 224
    crop_fraction: float = 0.9
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)
        if self.size < 1:
            raise PackQViTError(f"image size {self.size} must be at least 1")
        if not 0 < self.crop_fraction <= 1:
            raise PackQViTError(f"crop fraction {self.crop_fraction} must lie in (0, 1]")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise PackQViTError(f"mean {self.mean} and std {self.std} must have three values each, for R, G and B")
        if min(self.std) <= 0:
            raise PackQViTError(f"std {self.std} must be positive")

    @checked
    def pixels(self, image: Image.Image) -> Tensor:
        """Resizes and crops an image.

        Args:
            image: any mode; converted to RGB.

        Returns:
            uint8 [3, size, size].
        """
        image = image.convert("RGB")
        ratio = int(self.size / self.crop_fraction) / min(image.size)
        width, height = (max(self.size, round(side * ratio)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    @checked
    def normalize(self, pixels: Tensor) -> Tensor:
        """Maps uint8 [..., 3, H, W] to float32 of the same shape."""
        mean = torch.tensor(self.mean, dtype=torch.float32)[:, None, None]
        std = torch.tensor(self.std, dtype=torch.float32)[:, None, None]
        return (pixels.to(torch.float32) / 255 - mean) / std

    def __call__(self, image: Image.Image) -> Tensor:
        """Returns float32 [3, size, size], normalised."""
        return self.normalize(self.pixels(image))


@checked
def synthetic_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Draws smooth random pictures: only for latency measurements, where no real image can matter.

    Returns:
        uint8 [count, 3, size, size].
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)
    grain = 0.1 * torch.randn(count, 3, size, size, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).round().to(torch.uint8)
