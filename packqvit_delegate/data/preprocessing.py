"""From an image file to a model's input: resize, centre crop, normalise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from packqvit_delegate.arguments import check_fields, checked, shown
from packqvit_delegate.errors import PackQViTError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# Beyond this the centre crop shows next to nothing of the image, and the resized image may not fit into memory.
MAX_ASPECT_RATIO = 100

Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
Crop = Literal["center", "squash"]

_FILTERS: Mapping[str, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


@checked
def open_image(path: str | Path) -> Image.Image:
    """Reads one image file as RGB, upright (cameras note in EXIF how they were held).

    Raises:
        PackQViTError: the file cannot be read as an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            return as_rgb(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PackQViTError(
            f"cannot read the image {path}: {error}; replace the file or take it out of the folder "
            "(and out of labels.csv, where there is one)"
        ) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode (grey, of 16 bits too, palette, CMYK, with transparency) as an upright RGB one.

    Raises:
        ValueError: it is too elongated to crop.
    """
    width, height = image.size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ValueError(f"{width} x {height} pixels are too elongated for a centre crop")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow would cut off what is above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


@checked
def to_image(picture: str | Path | Image.Image | np.ndarray) -> Image.Image:
    """A picture, however it is given, as RGB.

    Args:
        picture: a path; a PIL image of any mode; or an array, uint8 [H, W, 3] of R, G and B, or [H, W] of grey.

    Raises:
        PackQViTError: it is none of these, or cannot be read.
    """
    if isinstance(picture, str | Path):
        return open_image(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or not (picture.ndim == 2 or picture.ndim == 3 and picture.shape[2] == 3):
            raise PackQViTError(
                f"the picture is {shown(picture)}, but must be uint8 [H, W, 3], bytes of R, G and B, or [H, W], grey"
            )
        picture = Image.fromarray(np.ascontiguousarray(picture))
    try:
        return as_rgb(picture)
    except (OSError, ValueError) as error:
        raise PackQViTError(f"cannot use the picture: {error}") from error


@dataclass(frozen=True)
class Preprocessing:
    """Short side to `int(size / crop_fraction)`, centre crop to `size`, then `(x / 255 - mean) / std`.

    `crop_fraction` 0.9 is what timm evaluates its 224-pixel ViT and DeiT with. With `crop="squash"` the whole image is
    resized to `int(size / crop_fraction)` squared first, whatever its shape, as Hugging Face's processors do.
    """

    size: int = 224
    crop_fraction: float = 0.9
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"
    crop: Crop = "center"

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
        for name in ("mean", "std"):  # a list compares with no tuple
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))

    @checked
    def pixels(self, image: Image.Image) -> Tensor:
        """Resizes and crops an image.

        Args:
            image: any mode; converted to RGB.

        Returns:
            uint8 [3, size, size].
        """
        image = image.convert("RGB")
        short = int(self.size / self.crop_fraction)
        if self.crop == "squash":
            width = height = short
        else:
            ratio = short / min(image.size)
            width, height = (max(self.size, round(side * ratio)) for side in image.size)
        image = image.resize((width, height), _FILTERS[self.interpolation])
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
