"""Views of images."""

from __future__ import annotations

import torch

from models import images
from packqvit_delegate.training.augment import patched, random_views, recoloured


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


def test_colours_change_within_the_extremes_of_each_image() -> None:
    x = images(12)
    result = recoloured(x, 0.3, torch.Generator().manual_seed(0))
    assert result.shape == x.shape
    for before, after in zip(x, result, strict=True):
        assert float(after.min()) >= float(before.min()) and float(after.max()) <= float(before.max())
        assert not torch.equal(before, after)
        # A view of the same picture, not another one.
        assert float(torch.corrcoef(torch.stack([before.flatten(), after.flatten()]))[0, 1]) > 0.8
    assert torch.equal(recoloured(x, 0.3, torch.Generator().manual_seed(0)), result)
    assert torch.equal(recoloured(x, 0.0, torch.Generator().manual_seed(0)), x)


def test_colours_mean_the_same_for_pixels_and_normalised_images() -> None:
    x = images(4)
    result = recoloured(x, 0.3, torch.Generator().manual_seed(0))
    other = recoloured(5 * x + 3, 0.3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(other, 5 * result + 3, rtol=1e-4, atol=1e-4)


def test_patches_come_from_the_other_image() -> None:
    x = torch.arange(16.0).reshape(16, 1, 1, 1).expand(16, 3, 32, 32).clone()
    result = patched(x, 0.5, torch.Generator().manual_seed(0))
    changed = 0
    for index, image in enumerate(result):
        theirs = image[0] == float((index - 1) % 16)
        assert bool((theirs | (image[0] == float(index))).all())
        rows, columns = theirs.any(1).sum(), theirs.any(0).sum()
        assert int(theirs.sum()) == int(rows * columns)  # one rectangle
        changed += bool(theirs.any())
    assert 3 <= changed <= 13
    assert torch.equal(x, torch.arange(16.0).reshape(16, 1, 1, 1).expand(16, 3, 32, 32))
    assert torch.equal(patched(x, 0.0, torch.Generator().manual_seed(0)), x)
