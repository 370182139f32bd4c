"""How far a quantised model's answer is from the float model's."""

from __future__ import annotations

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
