"""Gives the channels of attention's values, and of what attention makes of them, ranges of the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.fx import GraphModule, Node

from .equalize_layer_norm import WIDE, CodeRange, channel_grids
from .graph import clean_up, constant, replace_constant
from .patterns import attentions, projection_behind
from .recorder import sample_values

_EXPONENT = 0.5


def equalize_values(
    graph_module: GraphModule, batches: Iterable[tuple[torch.Tensor, ...]], codes: Callable[[Node], CodeRange]
) -> GraphModule:
    """Scales the channels of v, and takes it back in the weights of the projection behind attention.

    Before: linear(attention(q, k, linear(x, V, b)), P, c)
    After:  linear(attention(q, k, linear(x, V / f, b / f)), P f, c), the same function

    Attention weighs the tokens of each channel alike, so that a factor for each channel passes through it. With one
    scale a tensor, channels of small values get few of the codes; weights have a scale for each output channel, so
    that those of V cost nothing. f is the square root of the step of a grid for each channel alone: half of the
    difference is left to P, whose rows have one scale each. Outputs of 128 codes and more stay as they are: they have
    codes enough, and P would only lose.

    Source: Xiao et al., "SmoothQuant", ICML 2023, eq. 4, with exponent 0.5; through attention as here, this project.

    Args:
        graph_module: Canonical float graph; changed in place.
        batches: Inputs of the graph.
        codes: Smallest and largest code of an attention's output.

    Raises:
        CalibrationError: There is no batch, or activations are not finite.
    """
    found = [
        (attention, linear)
        for attention in attentions(graph_module)
        if (linear := projection_behind(attention)) and codes(attention.output)[1] - codes(attention.output)[0] < WIDE
    ]
    if not found:
        return graph_module
    samples = sample_values(graph_module, [attention.output for attention, _ in found], batches)
    for attention, projection in found:
        step, _ = channel_grids(samples[attention.output], *codes(attention.output))
        factor = step.clamp_min(float(step.max()) * 1e-3) ** _EXPONENT
        factor = factor / factor.log().mean().exp()
        value = attention.value
        weights, *biases = (constant(graph_module, argument) for argument in value.args[1:3])  # type: ignore[arg-type]
        replace_constant(graph_module, value, 1, weights / factor.unsqueeze(1))
        for bias in biases:
            replace_constant(graph_module, value, 2, bias / factor)
        replace_constant(graph_module, projection, 1, constant(graph_module, projection.args[1]) * factor)  # type: ignore
    return clean_up(graph_module)
