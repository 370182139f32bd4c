"""How far the inside of a quantised model is from the float model's; for its answers see answers.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def feature_distance(features: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared error of features over the variance of their channels, averaged over the list.

    Args:
        features: Float [B, ..., C] each, of the model that learns.
        targets: Of the model that it learns from; the same shapes.

    Returns:
        float32 [].
    """
    errors = []
    for feature, target in zip(features, (target.float() for target in targets), strict=True):
        variance = target.flatten(0, -2).var(0, correction=0).mean().clamp_min(1e-12)
        errors.append((feature.float() - target).square().mean() / variance)
    return torch.stack(errors).mean()
