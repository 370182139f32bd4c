"""Brings rotary positions of q and k to one operator, however a model spells them."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from .graph import add_constant, aten, call, clean_up, dtype_of, find, is_call, replacing, reshape, shape_of
from .layout import NOTHING, REPEATS, moves_or_repeats, trace
from .linear_terms import LinearTerms, linear_terms

ops = torch.ops.packqvit

_PRODUCTS = (
    aten.matmul.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.scaled_dot_product_attention.default,
)
"""What multiplies q and k."""


@dataclass(frozen=True)
class _Rotation:
    """An operand of attention as the rotation of another value's channels.

    Attributes:
        features: The element of the source's token that each channel is, int64 [H, d].
        cosine: Its factor, float64 [N, H, d].
        sine: That of its partner, float64 [N, H, d].
        partner: By channel of a head, int64 [d].
    """

    features: Tensor
    cosine: Tensor
    sine: Tensor
    partner: Tensor


def normalize_rotary(graph_module: GraphModule) -> GraphModule:
    """Replaces what mixes each channel of q or k with one other of its head, differently in each token.

    before: x -> slice, neg, cat (or stack) -> mul(., sin); x -> mul(., cos); add -> cat(prefix tokens, .)
    after:  x -> reshape [B, N, H, d] -> rotary(., cosine, sine, partner) -> permute [0, 2, 1, 3] -> reshape
    """
    for product in find(graph_module, *_PRODUCTS):
        first = 1 if is_call(product, aten.baddbmm.default) else 0
        for operand in product.args[first : first + 2]:
            if isinstance(operand, Node) and len(shape_of(operand)) >= 2:
                _rewrite(graph_module, _before_repeats(operand))
    return clean_up(graph_module)


def _before_repeats(operand: Node) -> Node:
    """The heads that several query heads share, [..., N, d], before they are repeated for each; or the operand."""
    _, chain = trace(operand, moves_or_repeats)
    repeat = next((node for node in chain if is_call(node, *REPEATS)), None)
    return operand if repeat is None else repeat.args[0]  # type: ignore[return-value]


def _rewrite(graph_module: GraphModule, operand: Node) -> None:
    found = linear_terms(graph_module, operand)
    if found is None:
        return
    source = found.source
    for tokens_first, transposed in itertools.product((True, False), (False, True)):
        rows = _rows_of(source, tokens_first)
        if rows is None:
            return
        rotation = _rotation(found, *rows, tokens_first, transposed)
        if rotation is not None:
            with replacing(graph_module, operand):
                value = _insert(graph_module, source, rotation, rows, tokens_first)
                if transposed:
                    value = call(graph_module, aten.transpose.int, value, -2, -1)
                value = reshape(graph_module, value, shape_of(operand))
            operand.replace_all_uses_with(value)
            return


def _rows_of(source: Node, tokens_first: bool) -> tuple[int, int, int] | None:
    """Batch, tokens and elements of a token of what is rotated: [B, N, ...], or [B, H, N, d] behind a norm."""
    shape = shape_of(source)
    if len(shape) < 3:
        return None
    if tokens_first:
        return shape[0], shape[1], math.prod(shape[2:])
    return (shape[0], shape[2], shape[1] * shape[3]) if len(shape) == 4 else None


def _rotation(
    found: LinearTerms, batch: int, tokens: int, width: int, tokens_first: bool, transposed: bool
) -> _Rotation | None:
    """The terms of [..., N, d] as a rotation, or None where they are something else."""
    shape = found.terms[0].index.shape
    sizes = shape[:-2] + (shape[-1], shape[-2]) if transposed else shape
    if sizes[-2] != tokens or math.prod(sizes) % (batch * tokens * sizes[-1]):
        return None
    index = torch.stack([_by_head(term.index, batch, sizes, transposed) for term in found.terms])
    factor = torch.stack([_by_head(term.factor, batch, sizes, transposed) for term in found.terms])
    if not tokens_first:  # elements of [B, H, N, d], counted as those of [B, N, H, d]
        index = torch.where(index == NOTHING, NOTHING, _tokens_first(index, found, tokens))
    is_there = (index != NOTHING) & (factor != 0)
    token = torch.arange(batch * tokens).reshape(batch, 1, tokens, 1)
    feature = index - token * width
    if bool((((feature < 0) | (feature >= width)) & is_there).any()):
        return None  # of another token
    # Each channel reads at most two elements, the same in all tokens and images.
    least = torch.where(is_there, feature, width).amin((0, 1, 3))
    most = torch.where(is_there, feature, -1).amax((0, 1, 3))
    is_least, is_most = (is_there & (feature == end[None, None, :, None]) for end in (least, most))
    if bool((is_there & ~is_least & ~is_most).any()) or bool((most < 0).any()):
        return None
    partner = _partners(least, most)
    if partner is None:
        return None
    of_least, of_most = (torch.where(here, factor, 0.0).sum(0) for here in (is_least, is_most))
    if not all(torch.equal(factors[:1].expand_as(factors), factors) for factors in (of_least, of_most)):
        return None  # images differ
    of_least, of_most = of_least[0].transpose(0, 1), of_most[0].transpose(0, 1)
    # The first channel of a pair is its first element, the second its second; a channel alone has no partner.
    is_first = torch.arange(len(partner)) <= partner
    features = torch.where(is_first, least, most)
    cosine = torch.where(is_first, of_least, of_most)
    sine = torch.where(least == most, 0.0, torch.where(is_first, of_most, of_least))
    return _Rotation(features, cosine, sine, partner)


def _by_head(value: Tensor, batch: int, sizes: torch.Size, transposed: bool) -> Tensor:
    """[..., N, d], or [..., d, N], as [B, H, N, d]."""
    return (value.transpose(-1, -2) if transposed else value).reshape(batch, -1, sizes[-2], sizes[-1])


def _tokens_first(index: Tensor, found: LinearTerms, tokens: int) -> Tensor:
    """Elements of [B, H, N, d], counted as those of [B, N, H, d]."""
    batch, heads, _, channels = shape_of(found.source)
    order = torch.arange(batch * tokens * heads * channels).reshape(batch, tokens, heads, channels)
    return order.transpose(1, 2).flatten()[index.clamp_min(0)]


def _partners(least: Tensor, most: Tensor) -> Tensor | None:
    """The other channel [d] that reads the same two elements; itself where there is one element alone.

    None where channels do not come in pairs, or heads differ.
    """
    heads, channels = least.shape
    same = (least[:, :, None] == least[:, None]) & (most[:, :, None] == most[:, None])
    is_pair = least != most
    if not torch.equal(same.sum(-1), is_pair + 1) or not torch.equal(same[:1].expand_as(same), same):
        return None
    itself = torch.eye(channels, dtype=torch.bool)
    other = (same[0] & ~itself).long().argmax(-1)
    return torch.where(is_pair[0], other, torch.arange(channels))


def _insert(
    graph_module: GraphModule, source: Node, rotation: _Rotation, rows: tuple[int, int, int], tokens_first: bool
) -> Node:
    """Inserts what gives [B, H, N, d]."""
    batch, tokens, width = rows
    heads, channels = rotation.features.shape
    if not tokens_first:
        source = call(graph_module, aten.permute.default, source, [0, 2, 1, 3])
    value = reshape(graph_module, source, [batch, tokens, width])
    features = rotation.features.flatten()
    if not torch.equal(features, torch.arange(width)):
        order = add_constant(graph_module, features, "rotated_channels")
        value = call(graph_module, aten.index_select.default, value, 2, order)
    value = reshape(graph_module, value, [batch, tokens, heads, channels])
    cosine, sine = (
        add_constant(graph_module, _alike(factor).to(dtype_of(source)), name)
        for factor, name in ((rotation.cosine, "rotary_cosine"), (rotation.sine, "rotary_sine"))
    )
    value = call(graph_module, ops.rotary.default, value, cosine, sine, rotation.partner.tolist())
    return call(graph_module, aten.permute.default, value, [0, 2, 1, 3])


def _alike(factor: Tensor) -> Tensor:
    """[N, H, d], or [N, 1, d] where all heads have the same."""
    return factor[:, :1] if torch.equal(factor[:, :1].expand_as(factor), factor) else factor
