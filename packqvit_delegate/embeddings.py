"""Judges embeddings: of models without classes, whose answers are compared, searched and classified by neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .arguments import checked
from .errors import PackQViTError


@checked
def cosine_similarity(found: Tensor, reference: Tensor) -> Tensor:
    """Cosine of each embedding with its reference.

    Args:
        found: float32 [N, ...], all but the first axis are of one embedding.
        reference: The same shape.

    Returns:
        float32 [N]; 0 for an embedding of zeros.

    Raises:
        PackQViTError: The shapes differ.
    """
    _require_alike(found, reference)
    return functional.cosine_similarity(found.flatten(1), reference.flatten(1), dim=1)


@checked
def signal_to_noise(found: Tensor, reference: Tensor) -> float:
    """Energy of the reference over that of the difference, in dB; infinite where there is none.

    Raises:
        PackQViTError: The shapes differ.
    """
    _require_alike(found, reference)
    noise = (found.double() - reference.double()).square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / noise))


@checked
def nearest_neighbours(queries: Tensor, gallery: Tensor, count: int = 1, *, skip_self: bool = False) -> Tensor:
    """The embeddings of a gallery with the largest cosine, the largest first.

    Args:
        queries: float32 [N, C].
        gallery: float32 [M, C].
        count: How many.
        skip_self: The queries are the gallery: no embedding is its own neighbour.

    Returns:
        int64 [N, count], positions in the gallery.

    Raises:
        PackQViTError: The gallery has too few embeddings, or others than the queries.
    """
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise PackQViTError(
            f"embeddings of the shapes {list(queries.shape)} and {list(gallery.shape)} cannot be compared: needed are "
            "[N, C] and [M, C]"
        )
    if count < 1 or count > len(gallery) - skip_self:
        raise PackQViTError(f"{count} neighbours were asked for, and the gallery has {len(gallery) - skip_self}")
    similarity = functional.normalize(queries, dim=1) @ functional.normalize(gallery, dim=1).T
    if skip_self:
        similarity.fill_diagonal_(-torch.inf)
    return similarity.topk(count, dim=1).indices


@checked
def vote(neighbours: Tensor, labels: Tensor) -> Tensor:
    """The label that most neighbours have; of several, that of the nearest.

    Args:
        neighbours: int64 [N, k], positions in the gallery, the nearest first.
        labels: int64 [M], of the gallery, from 0.

    Returns:
        int64 [N].
    """
    of_neighbours = labels[neighbours]
    votes = (of_neighbours.unsqueeze(2) == of_neighbours.unsqueeze(1)).sum(2)
    return of_neighbours.gather(1, votes.argmax(1, keepdim=True)).squeeze(1)


def _require_alike(found: Tensor, reference: Tensor) -> None:
    if found.shape != reference.shape:
        raise PackQViTError(f"embeddings are {list(found.shape)}, their references {list(reference.shape)}")
