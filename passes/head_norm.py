"""Norms and rotary positions of q or k, and RMSNorms of rows: recognised literally, with or without quantisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from .codes import skip_codes
from .graph import aten, is_call, is_constant, shape_of


@dataclass(frozen=True)
class HeadNorm:
    """A norm of each head's channels, or of whole rows, which are one head.

    Attributes:
        source: What is normalised, [B, N, H * d]; rows [..., d].
        norm: The rms_norm or layer_norm over [d], of [B, N, H, d]; of rows an rms_norm.
        factor: A constant [H, 1] or [H, d] behind it, or None; of rows a number, or a constant of one element or [d].
        value: The result, [B, N, H, d] or [..., d].
    """

    source: Node
    norm: Node
    factor: Node | float | None
    value: Node


@dataclass(frozen=True)
class Rotary:
    """Rotary positions of q or k.

    Attributes:
        source: What is rotated, the linear [B, N, H * d] or the result of a norm, [B, N, H, d].
        norm: That norm, or None.
        value: The result, [B, N, H, d].
    """

    source: Node
    norm: HeadNorm | None
    value: Node

    @property
    def linear(self) -> Node:
        """Where it all comes from."""
        return self.source if self.norm is None else self.norm.source


def match_rotary(value: Any) -> Rotary | None:
    """The rotation that ends in `value`: linear -> reshape [B, N, H, d] [-> norm] -> rotary, or None."""
    if not is_call(value, torch.ops.packqvit.rotary.default) or not all(map(is_constant, value.args[1:3])):
        return None
    rotated = skip_codes(value.args[0])
    norm = match_head_norm(rotated)
    if norm is not None:
        return Rotary(norm.value, norm, value)
    linear = split_linear(rotated)
    return None if linear is None else Rotary(linear, None, value)


def split_linear(split: Any) -> Node | None:
    """The linear [B, N, H * d] that a reshape brings to [B, N, H, d], or None."""
    if not is_call(split, aten.reshape.default) or len(shape_of(split)) != 4:
        return None
    linear = skip_codes(split.args[0])
    batch, tokens, heads, channels = shape_of(split)
    is_linear = is_call(linear, aten.linear.default) and shape_of(linear) == (batch, tokens, heads * channels)
    return linear if is_linear else None


def match_head_norm(value: Any) -> HeadNorm | None:
    """The norm that ends in `value`: linear -> reshape [B, N, H, d] -> norm [-> mul constant], or None."""
    norm, factor = value, None
    if is_call(value, aten.mul.Tensor) and is_constant(value.args[1]):
        norm, factor = value.args
    if not is_call(norm, aten.rms_norm.default, aten.layer_norm.default):
        return None
    linear = split_linear(norm.args[0])
    if linear is None:
        return None
    *_, heads, channels = shape_of(norm)
    parameters = [argument for argument in norm.args[2:] if isinstance(argument, Node)]
    if list(norm.args[1]) != [channels] or not all(map(is_constant, parameters)):
        return None
    if factor is not None and shape_of(factor) not in ((heads, 1), (heads, channels)):
        return None
    return HeadNorm(linear, norm, factor, value)


def match_row_norm(value: Any) -> HeadNorm | None:
    """The RMSNorm of rows that ends in `value`, L2 normalisation included: rms_norm [-> mul factor], or None."""
    norm, factor = value, None
    if is_call(value, aten.mul.Tensor):
        norm, factor = value.args
        if not isinstance(factor, float) and not is_constant(factor):
            return None
    if not is_call(norm, aten.rms_norm.default) or match_head_norm(value) is not None:
        return None
    channels = shape_of(norm)[-1]
    if list(norm.args[1]) != [channels] or not all(map(is_constant, (a for a in norm.args[2:3] if a is not None))):
        return None
    if isinstance(factor, Node) and shape_of(factor) not in ((), (1,), (channels,)):
        return None
    if norm is value and len(norm.users) == 1 and match_row_norm(next(iter(norm.users))) is not None:
        return None  # what it is multiplied with belongs to it
    return HeadNorm(norm.args[0], norm, factor, value)
