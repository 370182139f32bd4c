"""Views of images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from models import images
from packqvit_delegate.training.augment import blended, pasted, random_views

Mix = Callable[[torch.Tensor, float, torch.Generator], torch.Tensor]


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


def test_larger_images_are_scaled_to_the_size_asked_for() -> None:
    x = images(6, seed=2)
    whole = random_views(x, 1.0, torch.Generator().manual_seed(0), (16, 16))
    assert whole.shape == (6, 3, 16, 16)
    small = torch.nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True, align_corners=False)
    for view, image in zip(whole, small, strict=True):
        assert min(float((view - image).abs().max()), float((view - image.flip(-1)).abs().max())) < 1e-5
    assert random_views(x, 0.3, torch.Generator().manual_seed(0), (16, 16)).shape == (6, 3, 16, 16)


def numbered(count: int) -> torch.Tensor:
    """Images whose every value is their number."""
    return torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(-1, 3, 20, 12).clone()


@pytest.mark.parametrize("mix", [blended, pasted])
def test_images_are_mixed_as_often_as_asked_for(mix: Mix) -> None:
    x = numbered(400)
    assert torch.equal(mix(x, 0.0, torch.Generator().manual_seed(0)), x)
    changed = (mix(x, 0.4, torch.Generator().manual_seed(0)) != x).flatten(1).any(1)
    assert 0.3 < float(changed.float().mean()) < 0.5
    assert torch.equal(x, numbered(400)), "the images given stay as they are"
    again, other = (mix(x, 0.4, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert torch.equal(again, mix(x, 0.4, torch.Generator().manual_seed(0))) and not torch.equal(again, other)


def test_a_blend_is_one_weight_for_the_whole_image() -> None:
    x = numbered(200)
    result = blended(x, 1.0, torch.Generator().manual_seed(0))
    first = result[:, :1, :1, :1]
    assert torch.equal(result, first.expand_as(result))
    assert float(first.min()) >= 0 and float(first.max()) <= 199
    assert float((first - first.round()).abs().gt(1e-3).float().mean()) > 0.9, "weights lie between 0 and 1"


def test_what_is_pasted_is_one_rectangle_of_another_image() -> None:
    x = numbered(300)
    result = pasted(x, 1.0, torch.Generator().manual_seed(0))
    shares = []
    for number, image in enumerate(result):
        other = image != number
        values = image[other].unique()
        assert len(values) <= 1 and torch.equal(other[0], other[1]) and torch.equal(other[0], other[2])
        rows, columns = other[0].any(1), other[0].any(0)
        assert torch.equal(other[0], rows[:, None] & columns)
        for line in (rows, columns):
            inside = line.nonzero().flatten()
            assert len(inside) == 0 or int(inside[-1] - inside[0]) + 1 == len(inside)
        shares.append(float(other[0].float().mean()))
    assert 0.4 < sum(shares) / len(shares) < 0.6 and max(shares) > 0.9
