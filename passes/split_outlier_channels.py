"""Splits the few hidden channels with massive activations into copies that each saturate."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    add_linear,
    aten,
    call,
    clean_up,
    constant,
    is_call,
    is_constant,
    is_trainable,
    keep_module,
)
from .integer.linear_rules import MAX_FEATURES
from .normalize_unary import clamped
from .patterns import UNARY_FUNCTIONS, function_of
from .recorder import sample_values

ops = torch.ops.packqvit

SHARE = 1 / 16
"""At most this share of a layer's hidden channels is added."""

_BEND = 0.00136  # so far GELU is from x at 3
_POINTS = 4097


def split_outlier_channels(graph_module: GraphModule, batches: Iterable[tuple[torch.Tensor, ...]]) -> GraphModule:
    """Gives all hidden channels of an MLP a range of the same order, at the price of a few more channels.

    Before: linear(f(linear(x, W, b)), V)
    After:  linear(f(min(linear(x, W', b'), R)), V'), the same function up to the bend of f at 0

    A channel whose input reaches m > R becomes ceil(m / R) channels: the weights are the same, the j-th bias is lower
    by j R. So each copy gives f(min(x - j R, R)), and what the copies add up to, with the same weights in V', is f(x):
    above R every further copy continues where the one before stopped. One table then serves all channels with codes for
    0 to R, where a few massive activations took them all before.

    f is any function of one variable that is x far above 0 and 0 far below: GELU, QuickGELU, SiLU, Mish, ReLU. R is the
    smallest bound for which no more than SHARE of the channels is added, and beyond which f is that straight. Layers
    whose largest value is not even halved by that stay as they are.

    Source: this project; channel splitting by weights is Zhao et al., "Improving Neural Network Quantization without
    Retraining using Outlier Channel Splitting", ICML 2019.

    Args:
        graph_module: Canonical float graph; changed in place.
        batches: Inputs of the graph.

    Raises:
        CalibrationError: There is no batch, or activations are not finite.
    """
    layers = [node for node in graph_module.graph.nodes if _matches(node)]
    if not layers:
        return graph_module
    samples = sample_values(graph_module, [function.args[0] for function in layers], batches)
    for function in layers:
        largest = samples[function.args[0]].channel_range()[1]
        least = straight_from(function_of(function), float(largest.max()))
        bound = None if least is None else choose_bound(largest, least)
        if bound is not None:
            _split(graph_module, function, largest, bound)
    return clean_up(graph_module)


def straight_from(function: Callable[[torch.Tensor], torch.Tensor], top: float) -> float | None:
    """Where a function becomes a ramp: from there to `top` it gives x for x, and next to nothing for -x.

    Args:
        function: Of one variable.
        top: Largest input.

    Returns:
        A bound; None where it is none up to `top`, as a sigmoid or a squared ReLU is.
    """
    x = torch.linspace(0, top, _POINTS)[1:]
    bends = torch.maximum((function(x) - x).abs(), function(-x).abs()) > _BEND * x
    if not top > 0 or bool(bends[-1]):
        return None
    return float(x[int(bends.nonzero().max()) + 1]) if bool(bends.any()) else float(x[0])


def choose_bound(largest: torch.Tensor, least: float) -> float | None:
    """R for the largest inputs of all channels, float32 [C], and at least so much; None where it is not worth it."""
    allowed = min(int(SHARE * largest.numel()), MAX_FEATURES - largest.numel())
    top = float(largest.max())
    low, high = least, top
    if top <= 2 * low or allowed < 1:
        return None
    for _ in range(40):  # added channels fall as the bound rises
        middle = (low + high) / 2
        low, high = (low, middle) if _added(largest, middle) <= allowed else (middle, high)
    return high if high <= top / 2 else None


def _copies(largest: torch.Tensor, bound: float) -> torch.Tensor:
    return torch.ceil(largest / bound).clamp_min(1).to(torch.int64)


def _added(largest: torch.Tensor, bound: float) -> int:
    return int((_copies(largest, bound) - 1).sum())


def _matches(node: Node) -> bool:
    """Whether a node is a function of one variable between linears with constant weights, all without other readers."""
    if not is_call(node, *UNARY_FUNCTIONS) or len(node.users) != 1:
        return False
    before, (after,) = node.args[0], node.users
    return (
        is_call(before, aten.linear.default)
        and len(before.users) == 1  # type: ignore[union-attr]
        and is_call(after, aten.linear.default)
        and after.args[0] is node
        and is_constant(before.args[1])  # type: ignore[union-attr]
        and is_constant(after.args[1])
        and (len(before.args) < 3 or is_constant(before.args[2]))  # type: ignore[union-attr]
    )


def _split(graph_module: GraphModule, function: Node, largest: torch.Tensor, bound: float) -> None:
    before, (after,) = function.args[0], function.users
    assert isinstance(before, Node)
    copies = _copies(largest, bound)
    more = torch.repeat_interleave(torch.arange(largest.numel()), copies - 1)
    index = torch.cat([torch.arange(largest.numel()), more])
    first = torch.cumsum(copies - 1, 0) - (copies - 1)
    step = torch.cat([torch.zeros(largest.numel()), torch.arange(len(more)) - first[more] + 1.0])

    weight_node, out_node = before.args[1], after.args[1]
    assert isinstance(weight_node, Node) and isinstance(out_node, Node)
    bias_node = before.args[2] if len(before.args) > 2 else None
    weight = constant(graph_module, weight_node)[index]
    bias = torch.zeros(largest.numel()) if bias_node is None else constant(graph_module, bias_node)  # type: ignore
    bias = bias[index] - step * bound
    with graph_module.graph.inserting_before(before):
        hidden = add_linear(graph_module, before, weight, bias, "split")
        text = clamped(graph_module, function, bound)
        activation = keep_module(call(graph_module, ops.function.default, hidden, text), function)
        columns = constant(graph_module, out_node)[:, index]
        out = add_constant(graph_module, columns, f"{out_node.target}_split", is_trainable(graph_module, out_node))
    function.replace_all_uses_with(activation)
    after.update_arg(1, out)
