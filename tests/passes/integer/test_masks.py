from __future__ import annotations

import pytest
import torch

from packqvit_delegate.models.swin import shift_mask
from packqvit_delegate.passes.integer.masks import split_mask


def bias(heads: int, tokens: int) -> torch.Tensor:
    return torch.randn(1, heads, tokens, tokens, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("images", [1, 3])
def test_the_mask_of_shifted_windows_becomes_groups(images: int) -> None:
    mask = shift_mask(12, 8, 4, 2).double()
    shared = bias(2, 16)
    left, groups = split_mask((shared + mask[:, None]).repeat(images, 1, 1, 1))
    assert groups is not None and groups.dtype == torch.uint8 and groups.shape == (6, 16)
    assert torch.equal(left, shared)
    assert torch.equal(groups[:, :, None] == groups[:, None], mask == 0)
    assert [len(set(row.tolist())) for row in groups] == [1, 2, 1, 2, 2, 4]


def test_one_window_with_a_mask() -> None:
    mask = shift_mask(4, 4, 4, 2).double()
    left, groups = split_mask(bias(3, 16) + mask[:, None])
    assert groups is not None and len(groups) == 1
    assert torch.equal(left.masked_fill(mask[:, None] < 0, 0.0), bias(3, 16).masked_fill(mask[:, None] < 0, 0.0))


@pytest.mark.parametrize("kind", ["none", "small", "causal", "by_head", "by_window"])
def test_any_other_bias_stays(kind: str) -> None:
    mask = shift_mask(8, 8, 4, 2).double()[:, None].expand(4, 2, 16, 16).clone()
    if kind == "none":
        mask.zero_()
    elif kind == "small":  # scores may make up for 10
        mask /= 10
    elif kind == "causal":  # not symmetric: no groups
        mask = torch.full((4, 2, 16, 16), -100.0).double().triu(1)
    elif kind == "by_head":
        mask[:, 1] = 0
    else:  # beside the mask, what is added differs from window to window
        mask += torch.arange(4)[:, None, None, None] * torch.arange(16)
    whole = bias(2, 16) + mask
    left, groups = split_mask(whole)
    assert groups is None and torch.equal(left, whole)
