"""The norm of q or k in front of the scores of an attention, recognised literally, with or without quantisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from .codes import skip_codes
from .graph import aten, is_call, is_constant, shape_of


@dataclass(frozen=True)
class HeadNorm:
    """A norm of each head's channels.

    Attributes:
        linear: What is normalised, [B, N, H * d].
        norm: The rms_norm or layer_norm over [d], of [B, N, H, d].
        factor: A constant [H, 1] or [H, d] behind it, or None.
        value: The result, [B, N, H, d].
    """

    linear: Node
    norm: Node
    factor: Node | None
    value: Node


def match_head_norm(value: Any) -> HeadNorm | None:
    """The norm that ends in `value`: linear -> reshape [B, N, H, d] -> norm [-> mul constant], or None."""
    norm, factor = value, None
    if is_call(value, aten.mul.Tensor) and is_constant(value.args[1]):
        norm, factor = value.args
    if not is_call(norm, aten.rms_norm.default, aten.layer_norm.default):
        return None
    split = norm.args[0]
    if not is_call(split, aten.reshape.default) or len(shape_of(split)) != 4:
        return None
    batch, tokens, heads, channels = shape_of(split)
    linear = skip_codes(split.args[0])
    if not is_call(linear, aten.linear.default) or shape_of(linear) != (batch, tokens, heads * channels):
        return None
    parameters = [argument for argument in norm.args[2:] if isinstance(argument, Node)]
    if list(norm.args[1]) != [channels] or not all(map(is_constant, parameters)):
        return None
    if factor is not None and shape_of(factor) not in ((heads, 1), (heads, channels)):
        return None
    return HeadNorm(linear, norm, factor, value)
