"""Merges low-rank adapters, and linears behind linears, into one linear."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import add_linear, aten, clean_up, find, linear_parameters
from .sums import Sum, is_branch, is_sum, parts_of, read_sum, write_sum

Affine = tuple[Tensor, Tensor]
"""Weight [O, K] and bias [O], float64."""


def merge_adapters(graph_module: GraphModule) -> GraphModule:
    """Merges linears of the same input that are added up, and those behind each other where that saves work.

    The weights are multiplied and added in float64: the same function.

    before: add(linear(x, W, b), mul(linear(linear(x, A), B), s))
    after:  linear(x, W + s B A, b)

    Source: Hu et al., "LoRA", ICLR 2022, section 4.1: what an adapter adds at inference can be merged.
    """
    seen: set[Node] = set()
    for node in reversed(list(graph_module.graph.nodes)):
        if node in seen or not is_sum(node):
            continue
        found = fewer = read_sum(graph_module, node)
        seen.update(parts_of(graph_module, node))
        while (merged := _merged_terms(graph_module, node, fewer)) is not None:
            fewer = merged
        if fewer is not found:
            write_sum(graph_module, node, fewer)
    clean_up(graph_module)
    for linear in find(graph_module, aten.linear.default):
        _merge_chain(graph_module, linear)
    return clean_up(graph_module)


def _merged_terms(graph_module: GraphModule, root: Node, found: Sum) -> Sum | None:
    """The same sum with fewer linears; None where none of them have an input in common."""
    branches = [term for term in found.terms if is_branch(graph_module, term)]
    sources = {branch: _sources(graph_module, branch) for branch in branches}
    for first in branches:
        for source in sources[first]:
            together = [branch for branch in branches if source in sources[branch]]
            if len(together) > 1 and _is_less_work(graph_module, together, source):
                return _merge(graph_module, root, found, together, source)
    return None


def _sources(graph_module: GraphModule, linear: Node) -> list[Node]:
    """The input of a linear, that of the linear that gives it, and so on."""
    sources: list[Node] = []
    node = linear
    while is_branch(graph_module, node):
        node = node.args[0]  # type: ignore[assignment]
        sources.append(node)
    return sources


def _is_less_work(graph_module: GraphModule, linears: list[Node], source: Node) -> bool:
    """Whether one linear of a source takes no more products for each token than these, with what is before them."""
    chains = [_chain(graph_module, linear, source) for linear in linears]
    outputs, inputs = chains[0][0][0].shape[0], chains[0][-1][0].shape[1]
    return outputs * inputs <= sum(weight.numel() for chain in chains for weight, _ in chain)


def _chain(graph_module: GraphModule, linear: Node, source: Node) -> list[Affine]:
    """The linears from a source to one behind it, the last first."""
    chain: list[Affine] = []
    node = linear
    while node is not source:
        parameters = linear_parameters(graph_module, node)
        assert parameters is not None
        weight = parameters[0].double()
        bias = weight.new_zeros(len(weight)) if parameters[1] is None else parameters[1].double()
        chain.append((weight, bias))
        node = node.args[0]  # type: ignore[assignment]
    return chain


def _product(chain: list[Affine]) -> Affine:
    weight, bias = chain[-1]
    for outer, shift in reversed(chain[:-1]):
        weight, bias = outer @ weight, outer @ bias + shift
    return weight, bias


def _merge(graph_module: GraphModule, root: Node, found: Sum, linears: list[Node], source: Node) -> Sum:
    like = next((linear for linear in linears if linear.args[0] is source), linears[0])
    products = [(_product(_chain(graph_module, linear, source)), found.terms[linear]) for linear in linears]
    weight = sum(factor.expand(len(bias)).unsqueeze(1) * weight for (weight, bias), factor in products)
    bias = sum(factor.expand(len(bias)) * bias for (_, bias), factor in products)
    merged = _add_merged(graph_module, root, like, source, weight, bias)  # type: ignore[arg-type]
    rest = {node: factor for node, factor in found.terms.items() if node not in linears}
    return Sum({**rest, merged: torch.ones((), dtype=torch.float64)}, found.constant)


def _add_merged(
    graph_module: GraphModule, before: Node, like: Node, source: Node, weight: Tensor, bias: Tensor
) -> Node:
    dtype = linear_parameters(graph_module, like)[0].dtype  # type: ignore[index]
    with graph_module.graph.inserting_before(before):
        added = bias.to(dtype) if bool(bias.any()) else None
        return add_linear(graph_module, like, weight.to(dtype), added, "merged", source)


def _merge_chain(graph_module: GraphModule, linear: Node) -> None:
    """Two linears with nothing between them, where one takes no more products."""
    if linear_parameters(graph_module, linear) is None or not is_branch(graph_module, linear.args[0]):
        return
    source = linear.args[0].args[0]  # type: ignore[union-attr]
    assert isinstance(source, Node)
    if not _is_less_work(graph_module, [linear], source):
        return
    merged = _add_merged(graph_module, linear, linear, source, *_product(_chain(graph_module, linear, source)))
    linear.replace_all_uses_with(merged)
