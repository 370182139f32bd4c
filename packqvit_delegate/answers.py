"""What a model answers with, class scores or embeddings, and how far two such answers are apart.

All that compares a quantised model with its float model asks here: tuning, training, the search of a mix, and the
importance of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional
from torch.utils import _pytree as pytree

from .passes.graph import aten, constant, dtype_of, has_tensor, is_call, is_constant, shape_of
from .passes.reasons import origin

Kind = Literal["classes", "embedding"]
"""Of one output: scores of classes, [B, classes], whose probabilities count; or anything else."""

_KINDS = "packqvit_answers"
_EMPTY = 1e-6
"""Outputs that vary by less than this share of their energy are constant as far as float32 can tell."""


def mark_answers(graph_module: GraphModule) -> None:
    """Keeps what `answers_of` finds now: later passes give projections biases, and outputs identities."""
    graph_module.meta[_KINDS] = _look(graph_module)


def answers_of(graph_module: GraphModule) -> tuple[Kind, ...]:
    """What each floating-point output of a canonical graph is, in their order.

    Class scores are [B, classes] of two classes or more, and linears give them, heads, or sums of such. A head without
    a bias, or with one of zeros, is a projection: the towers of CLIP end with one.
    """
    kept = graph_module.meta.get(_KINDS)
    return _look(graph_module) if kept is None else kept


def _look(graph_module: GraphModule) -> tuple[Kind, ...]:
    return tuple("classes" if _scores_classes(graph_module, node) else "embedding" for node in outputs_of(graph_module))


def outputs_of(graph_module: GraphModule) -> list[Node]:
    """The floating-point outputs of a graph, in their order."""
    (output,) = graph_module.graph.find_nodes(op="output")
    nodes = [leaf for leaf in pytree.tree_leaves(output.args[0]) if isinstance(leaf, Node)]
    return [node for node in nodes if _has_real_numbers(_observed(node))]


def _observed(node: Node) -> Node:
    """What an observer looks at, which alone tells its shape; any other node as it is."""
    while node.op == "call_module":
        node = node.args[0]  # type: ignore[assignment]
    return node


def _has_real_numbers(node: Node) -> bool:
    return has_tensor(node) and dtype_of(node).is_floating_point and bool(shape_of(node))


def tensors_of(output: Any) -> tuple[Tensor, ...]:
    """The floating-point tensors that a model gave, in the order of `answers_of`."""
    leaves = (leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))
    return tuple(leaf for leaf in leaves if leaf.is_floating_point() and leaf.ndim)


def _scores_classes(graph_module: GraphModule, output: Node) -> bool:
    shape = shape_of(_observed(output))
    if len(shape) != 2 or shape[1] < 2:
        return False
    waiting, has_bias = [output], False
    while waiting:
        source = origin(waiting.pop())
        while source.op == "call_module":
            source = origin(_observed(source))
        if is_call(source, aten.add.Tensor, aten.mul.Tensor):  # several heads
            waiting += [operand for operand in source.all_input_nodes if not is_constant(operand)]
        elif is_call(source, aten.linear.default):
            has_bias |= _has_bias(graph_module, source)
        else:
            return False
    return has_bias


def _has_bias(graph_module: GraphModule, linear: Node) -> bool:
    bias: Any = linear.args[2] if len(linear.args) > 2 else None
    return bias is not None and (not is_constant(bias) or bool(constant(graph_module, bias).any()))


def losses(outputs: Sequence[Tensor], targets: Sequence[Tensor], kinds: Sequence[Kind]) -> Tensor:
    """What each image's answer loses: the sum of what each of its outputs does.

    Class scores lose the Kullback-Leibler divergence of the classes' probabilities, in nats (Hinton et al.,
    "Distilling the Knowledge in a Neural Network", 2015, temperature 1); embeddings their squared error in units of
    `spread`: 1 is as far off as another image's.

    Args:
        outputs: float32 [B, ...] each, of the model that is judged.
        targets: Of the float model; the same shapes.
        kinds: Of each output.

    Returns:
        float32 [B].
    """
    each = [
        divergence(target, output) if kind == "classes" else _embedding_losses(output, target)
        for output, target, kind in zip(outputs, targets, kinds, strict=True)
    ]
    return torch.stack(each).sum(0)


def divergence(reference: Tensor, output: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the class probabilities.

    Args:
        reference: Logits, float32 [B, classes].
        output: Logits that are compared with them, of the same shape.

    Returns:
        float32 [B], in nats.
    """
    wanted, got = reference.log_softmax(-1), output.log_softmax(-1)
    return functional.kl_div(got, wanted, log_target=True, reduction="none").sum(-1)


def _embedding_losses(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target).square() / spread(target)).reshape(len(output), -1).mean(1)


def spread(embeddings: Tensor) -> Tensor:
    """Energy of a channel that tells one answer from another: what errors of embeddings are compared with.

    Neighbours are found by what differs between images, so that of embeddings [B, C] it is their variance over the
    images; what they have in common is of no use and does not count. A single image has only the variance of its
    channels. Tokens [B, T, C] have that too, each its own, as a LayerNorm behind them would see them: a few massive
    ones would outweigh all others. Of maps [B, C, H, W] it is the variance of all that an image gives.

    Args:
        embeddings: Float [B, ...].

    Returns:
        Float, of a shape that divides `embeddings`; never 0.
    """
    energy = embeddings.square().mean()
    if embeddings.ndim <= 2 and len(embeddings) > 1:
        found = embeddings.var(0, correction=1).mean()
    elif embeddings.ndim == 1:
        found = energy
    elif embeddings.ndim in (2, 3):
        found = embeddings.var(-1, correction=0, keepdim=True)
    else:
        found = embeddings.var(tuple(range(1, embeddings.ndim)), correction=0, keepdim=True)
    return found.clamp_min(_EMPTY * float(energy) + torch.finfo(torch.float32).tiny)
