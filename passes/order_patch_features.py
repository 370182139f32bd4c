"""Brings the features of patches that a LayerNorm reads into the order in which they lie in the image."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import aten, change_constant, clean_up, find, is_call, replacing, reshape, shape_of
from .layout import NOTHING, RESHAPES, gather_rows, index_map, joined_rows, trace
from .patterns import is_channel_norm, is_input, linears_behind


def order_patch_features(graph_module: GraphModule) -> GraphModule:
    """Lets a LayerNorm read whole runs of pixels where it reads patches of an input in another order of features.

    Its mean and variance are the same in any order. Its weight and bias, and the columns of the linears behind it, take
    the other order.

    before: linear(layer_norm(reshape(permute(image)) [B, N, h * w * C], g, b), W)
    after:  linear(layer_norm(reshape(permute(image)) [B, N, C * h * w], g[o], b[o]), W[:, o])
    """
    for norm in find(graph_module, aten.layer_norm.default):
        if is_channel_norm(norm):
            _order(graph_module, norm)
    return clean_up(graph_module)


def _order(graph_module: GraphModule, norm: Node) -> None:
    value = norm.args[0]
    assert isinstance(value, Node)
    source, chain = trace(value)
    if not chain or not is_input(source) or _keeps_runs(source, chain):
        return
    index = index_map(source, chain)
    linears = linears_behind(norm)
    if bool((index == NOTHING).any()) or not linears:
        return
    rows = index.reshape(-1, index.shape[-1])
    order = (rows[0] - rows[0].min()).argsort()
    within = rows[:, order] - rows[:, order[:1]]
    run = _shortest_run(within[0])
    starts = rows[:, order].reshape(-1, run)[:, 0]
    if not torch.equal(within, within[:1].expand_as(within)) or run < 2 or bool((starts % run).any()):
        return
    with replacing(graph_module, norm):
        parts = reshape(graph_module, source, [math.prod(shape_of(source)) // run, run])
        gathered = gather_rows(graph_module, parts, starts // run)
        norm.update_arg(0, reshape(graph_module, gathered, shape_of(value)))
    for position in (2, 3):
        if len(norm.args) > position and norm.args[position] is not None:
            change_constant(graph_module, norm, position, lambda old: old[order])
    for linear in linears:
        change_constant(graph_module, linear, 1, lambda old: old[:, order])


def _shortest_run(places: Tensor) -> int:
    """Into runs of how many neighbours some sorted places fall, of one length."""
    ends = (places.diff() != 1).nonzero().flatten() + 1
    return math.gcd(len(places), *ends.tolist())


def _keeps_runs(source: Node, chain: list[Node]) -> bool:
    """Whether rows of the input, or of a reshape of it, stay whole."""
    views = itertools.takewhile(lambda node: is_call(node, *RESHAPES), chain[:-1])
    return any(joined_rows(origin, chain[-1]) is not None for origin in (source, *views))
