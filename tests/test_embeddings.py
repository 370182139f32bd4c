"""Embeddings are compared, searched and classified by their neighbours."""

from __future__ import annotations

import math

import pytest
import torch

from packqvit_delegate import PackQViTError
from packqvit_delegate.embeddings import cosine_similarity, nearest_neighbours, signal_to_noise, vote


def test_cosine_and_signal_to_noise() -> None:
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    found = torch.tensor([[6.0, 8.0], [0.0, 2.0], [-1.0, 0.0]])
    torch.testing.assert_close(cosine_similarity(found, reference), torch.tensor([1.0, 0.0, -1.0]))
    assert signal_to_noise(reference + torch.tensor([0.1, 0.0]), reference) == pytest.approx(
        10 * math.log10(27 / 0.03), rel=1e-4
    )
    assert signal_to_noise(reference, reference) == math.inf


def test_neighbours_are_by_direction_and_nobody_is_its_own() -> None:
    gallery = torch.tensor([[1.0, 0.0], [0.0, 5.0], [10.0, 1.0], [-1.0, 0.0]])
    assert nearest_neighbours(torch.tensor([[2.0, 0.01]]), gallery, 3).tolist() == [[0, 2, 1]]
    assert nearest_neighbours(gallery, gallery, 1).flatten().tolist() == [0, 1, 2, 3]
    assert nearest_neighbours(gallery, gallery, 1, skip_self=True).flatten().tolist() == [2, 2, 0, 1]


def test_the_most_frequent_label_wins_and_the_nearest_among_equals() -> None:
    neighbours = torch.tensor([[0, 1, 2], [2, 1, 0], [3, 0, 1]])
    labels = torch.tensor([5, 7, 7, 9])
    assert vote(neighbours, labels).tolist() == [7, 7, 9]


def test_what_cannot_be_compared_is_refused() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(PackQViTError, match=r"\[3, 4\], their references \[3, 5\]"):
        cosine_similarity(x, torch.ones(3, 5))
    with pytest.raises(PackQViTError, match="cannot be compared"):
        nearest_neighbours(x, torch.ones(3, 5))
    with pytest.raises(PackQViTError, match="3 neighbours were asked for, and the gallery has 2"):
        nearest_neighbours(x, x, 3, skip_self=True)
