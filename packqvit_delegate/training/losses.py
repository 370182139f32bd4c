"""How far a quantised model's answer is from the float model's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional


def distance(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean distance of answers.

    For logits [B, classes] the Kullback-Leibler divergence of the classes' probabilities (Hinton et al., "Distilling
    the Knowledge in a Neural Network", 2015, temperature 1). For features [B, T, C] the squared error of each token
    over its variance: what a LayerNorm behind it would see.

    Args:
        output: float32, of the model that learns.
        target: float32, of the model that it learns from; the same shape.

    Returns:
        float32 [].
    """
    if output.ndim == 2:
        log_probability, log_target = (functional.log_softmax(x, dim=-1) for x in (output, target))
        return functional.kl_div(log_probability, log_target, log_target=True, reduction="batchmean")
    variance = target.var(-1, keepdim=True, correction=0).clamp_min(1e-12)
    return ((output - target).square() / variance).mean()


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
