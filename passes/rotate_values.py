"""Rotates the channels of attention's values, head by head, so that no channel stands out."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from .graph import clean_up, constant, replace_constant, shape_of
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
        value = attention.value
        for index in range(1, len(value.args)):
            parameter = constant(graph_module, value.args[index])  # type: ignore[arg-type]
            replace_constant(graph_module, value, index, (rotation @ parameter.double()).to(parameter.dtype))
        weight = constant(graph_module, projection.args[1])  # type: ignore[arg-type]
        replace_constant(graph_module, projection, 1, (weight.double() @ rotation.T).to(weight.dtype))
    return clean_up(graph_module)
