"""Moves the different ranges of the channels that linears read into the weights in front of them and their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.row_sample import ENOUGH_ROWS, FEW_ROWS, RowSample

from .graph import add_constant, add_to_bias, aten, clean_up, constant, is_call, is_constant, replace_constant
from .patterns import is_padded, linears_behind
from .recorder import sample_values

STEP = "packqvit_step"
"""Key of node.meta: the step that all channels of an equalised LayerNorm have; their value of code 0 is 0."""

CodeRange = tuple[int, int]

WIDE = 128
"""From so many steps on a grid is fine enough to leave some of the difference between channels in it."""

WIDE_EXPONENT = 0.5
"""What a wide grid's steps are raised to: 4-bit weights lose more by a large factor than its codes gain."""

_FRACTIONS = torch.linspace(1.0, 0.4, 24).tolist()


def equalize_layer_norm(
    graph_module: GraphModule,
    batches: Iterable[tuple[torch.Tensor, ...]],
    codes: Callable[[Node], CodeRange],
    clipping: bool = True,
) -> GraphModule:
    """Gives every channel of a LayerNorm's output the same range, so that one scale and zero point serve all.

    Before: linear(layer_norm(x, g, b), W, c)
    After:  linear(layer_norm(x, g / f, (b - m) / f), W f, c + W m), the same function

    f and m are the step and the value of code 0 of a grid of `codes` for each channel alone, of least squared error on
    the batches (RepQ-ViT, ICCV 2023, eq. 5-8, with the search of the range added). Of wide grids, f is the square root
    of the step, which leaves half of the difference to the weights (Xiao et al., "SmoothQuant", ICML 2023, eq. 4).

    What linears read of the stream itself (`activation`) gets the factors 1 / f, and no offset.

    Args:
        graph_module: Canonical float graph; changed in place.
        batches: Inputs of the graph.
        codes: Smallest and largest code of a LayerNorm's output.
        clipping: Whether a range may end before the extremes of its channel.

    Raises:
        CalibrationError: There is no batch, or activations are not finite.
    """
    consumers = {node: linears for node in graph_module.graph.nodes if (linears := _consumers(graph_module, node))}
    samples = sample_values(graph_module, consumers, batches)
    for node, linears in consumers.items():
        qmin, qmax = codes(node)
        is_norm = is_call(node, aten.layer_norm.default)
        step, zero = channel_grids(samples[node], qmin, qmax, clipping, symmetric=not is_norm)
        factor = (step / step.mean()) ** (1.0 if is_norm and qmax - qmin < WIDE else WIDE_EXPONENT)
        if is_norm:
            _fold(graph_module, node, linears, step, zero, factor)
        else:
            _scale(graph_module, node, linears, factor)
    return clean_up(graph_module)


def channel_grids(
    sample: RowSample, qmin: int, qmax: int, clipping: bool = True, symmetric: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Affine grid of least squared error for each channel alone.

    Args:
        sample: Of rows [R, C].
        qmin: Smallest code.
        qmax: Largest code.
        clipping: Whether a range may end before the extremes; with 129 codes or more it never does.
        symmetric: Whether ranges are around 0.

    Returns:
        Step and value of code 0, float32 [C] each.
    """
    steps = qmax - qmin
    enough = ENOUGH_ROWS if steps >= WIDE else FEW_ROWS  # narrow grids are searched, and had better clip
    rows, (low, high) = sample.rows(enough), sample.channel_range(enough)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    least = torch.full_like(low, float("inf"))
    best_step, best_zero = torch.ones_like(low), torch.zeros_like(low)
    for fraction in _FRACTIONS if clipping and steps < WIDE else _FRACTIONS[:1]:
        middle, half = (high + low) / 2, (high - low) / 2 * fraction
        step = (2 * half / steps).clamp_min(1e-6)
        zero = middle - half - qmin * step
        rounded = ((rows - zero) / step).round().clamp(qmin, qmax) * step + zero
        error = (rounded - rows).square().sum(0)
        better = error < least
        least = torch.where(better, error, least)
        best_step, best_zero = torch.where(better, step, best_step), torch.where(better, zero, best_zero)
    return best_step, best_zero


def _consumers(graph_module: GraphModule, node: Node) -> list[Node]:
    """The linears that an affine LayerNorm or an `activation` feeds, when it feeds nothing else."""
    if is_call(node, torch.ops.packqvit.activation.default):
        return linears_behind(node) or [] if len(node.args) == 1 else []
    if not is_call(node, aten.layer_norm.default) or len(node.args) < 4:
        return []
    if not all(is_constant(argument) and len(argument.users) == 1 for argument in node.args[2:4]):  # type: ignore
        return []
    return linears_behind(node) or []


def _fold(
    graph_module: GraphModule,
    norm: Node,
    linears: list[Node],
    step: torch.Tensor,
    zero: torch.Tensor,
    factor: torch.Tensor,
) -> None:
    if is_padded(norm):  # zeros between its rows have to stay zeros, so that no offset can be taken out
        zero = torch.zeros_like(zero)
    else:
        norm.meta[STEP] = float((step / factor).max())
    gamma, beta = (constant(graph_module, argument) for argument in norm.args[2:4])  # type: ignore[arg-type]
    replace_constant(graph_module, norm, 2, gamma / factor)
    replace_constant(graph_module, norm, 3, (beta - zero) / factor)
    for linear in linears:
        weight = constant(graph_module, linear.args[1])  # type: ignore[arg-type]
        add_to_bias(graph_module, linear, weight @ zero)
        replace_constant(graph_module, linear, 1, weight * factor)


def _scale(graph_module: GraphModule, activation: Node, linears: list[Node], factor: torch.Tensor) -> None:
    with graph_module.graph.inserting_before(activation):
        constant_node = add_constant(graph_module, 1 / factor, f"{activation.name}_factor")
    activation.args = (activation.args[0], constant_node)
    for linear in linears:
        weight = constant(graph_module, linear.args[1])  # type: ignore[arg-type]
        replace_constant(graph_module, linear, 1, weight * factor)
