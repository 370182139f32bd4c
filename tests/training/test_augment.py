"""Views of images."""

from __future__ import annotations

import torch

from models import images
from packqvit_delegate.training.augment import random_views


def views(smallest: float, seed: int = 0, count: int = 12) -> torch.Tensor:
    return random_views(images(count), smallest, torch.Generator().manual_seed(seed))


def test_the_seed_decides() -> None:
    assert torch.equal(views(0.5), views(0.5))
    assert not torch.equal(views(0.5), views(0.5, seed=1))


def test_whole_images_are_mirrored_or_left() -> None:
    x = images(12)
    kept = [torch.equal(view, image) for view, image in zip(views(1.0), x, strict=True)]
    mirrored = [torch.equal(view, image.flip(-1)) for view, image in zip(views(1.0), x, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True)) and any(kept) and any(mirrored)


def test_crops_stay_within_the_image_and_its_values() -> None:
    x = torch.arange(32.0).expand(1, 3, 32, 32).repeat(40, 1, 1, 1)
    result = random_views(x, 0.25, torch.Generator().manual_seed(0))
    assert result.shape == x.shape
    assert float(result.min()) >= 0 and float(result.max()) <= 31
    widths = result.amax((1, 2, 3)) - result.amin((1, 2, 3)) + 1
    assert float(widths.min()) < 24 and float(widths.min()) > 10
