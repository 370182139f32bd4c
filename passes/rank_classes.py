"""Lets an integer program give its best classes instead of all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_structure

from packqvit_delegate.errors import PackQViTError

from .graph import call, clean_up, has_tensor, is_call, replacing, shape_of

ops = torch.ops.packqvit


def rank_classes(graph_module: GraphModule, k: int) -> GraphModule:
    """Puts the choice of the k best classes behind the logits.

    Before: logits                                              float32 [B, classes]
    After:  index = top_k(logits), take_scores(logits, index)   int32 [B, k], float32 [B, k]

    Args:
        graph_module: Integer graph; changed in place.
        k: In [1, classes].

    Raises:
        PackQViTError: k is out of range, or the model does not end in one tensor of integer logits.
    """
    output, logits = check_ranking(graph_module, k)
    if not is_call(logits, ops.dequantize.default):
        raise _no_logits(1, logits)
    with replacing(graph_module, output, like=logits):
        index = call(graph_module, ops.top_k.default, logits, k)
        scores = call(graph_module, ops.take_scores.default, logits, index)
    output.args = ((index, scores),)
    codegen = graph_module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        codegen.pytree_info = codegen.pytree_info._replace(out_spec=tree_structure((0, 0)))
    clean_up(graph_module)
    return graph_module


def check_ranking(graph_module: GraphModule, k: int) -> tuple[Node, Node]:
    """The output of a graph, float or integer, and the logits whose k best are to be chosen.

    Raises:
        PackQViTError: k is out of range, or the model does not give one tensor [B, classes].
    """
    output = next(node for node in graph_module.graph.nodes if node.op == "output")
    results: Any = output.args[0] if isinstance(output.args[0], (list, tuple)) else [output.args[0]]
    if len(results) != 1 or not has_tensor(results[0]) or not shape_of(results[0]):
        raise _no_logits(len(results), results[0] if results else None)
    classes = shape_of(results[0])[-1]
    if not 1 <= k <= classes:
        raise PackQViTError(f"top_k is {k}, but must lie in [1, {classes}], the number of classes")
    return output, results[0]


def _no_logits(count: int, first: object) -> PackQViTError:
    return PackQViTError(
        "top_k needs a model whose one output is the logits of a linear layer that runs in integers; this model "
        f"has {count} output(s), the first from {getattr(first, 'target', first)}"
    )
