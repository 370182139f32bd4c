"""Rotates the channels of attention's values, head by head, so that no channel stands out."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from .graph import change_constant, clean_up, shape_of
from .patterns import attentions, projection_behind
from .rotations import random_rotation


def rotate_values(graph_module: GraphModule, seed: int = 0) -> GraphModule:
    """Multiplies the values of each head with a random rotation R, and takes it back in the weights behind attention.

    Before: linear(attention(q, k, linear(x, V, b)), P, c)
    After:  linear(attention(q, k, linear(x, R V, R b)), P R^T, c), the same function

    Attention adds up tokens, each channel alike, so that a linear map of a head's channels passes through it. Every
    channel of the result is a sum over all channels of before: close to a normal distribution, which few steps hold
    with less error than one with long tails. The same goes for the weights.

    Source: Ashkboos et al., "QuaRot", NeurIPS 2024, section 4 (stage 1c), there with Hadamard matrices.

    Args:
        graph_module: Canonical float graph; changed in place.
        seed: Of the rotations.
    """
    generator = torch.Generator().manual_seed(seed)
    for attention in attentions(graph_module):
        projection = projection_behind(attention)
        if projection is None:
            continue
        channels = shape_of(attention.output)[-1] // attention.heads
        rotation = torch.block_diag(*(random_rotation(channels, generator) for _ in range(attention.heads)))
        _rotate(graph_module, attention.value, projection, rotation)
    return clean_up(graph_module)


def _rotate(graph_module: GraphModule, value: Node, projection: Node, rotation: torch.Tensor) -> None:
    for index in range(1, len(value.args)):
        change_constant(graph_module, value, index, lambda parameter: rotation @ parameter)
    change_constant(graph_module, projection, 1, lambda weight: weight @ rotation.T)
