"""The two ends of a program that serves an application: the camera's bytes in, the best classes out."""

from __future__ import annotations

from typing import Any

import torch

from .library import integer_op


def _pixel_codes_meta(x: Any, channels_last: Any) -> torch.Tensor:
    b, *sides = x.shape
    height, width, channels = sides if channels_last else (*sides[1:], sides[0])
    return x.new_empty((b, channels, height, width), dtype=torch.int8)


@integer_op("pixel_codes(Tensor x, bool channels_last) -> Tensor", _pixel_codes_meta)
def pixel_codes(x: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """The bytes of an image as codes: byte - 128, channels first.

    Args:
        x: uint8 [B, H, W, C] when `channels_last`, else [B, C, H, W].
        channels_last: The layout of x.

    Returns:
        int8 [B, C, H, W].
    """
    if channels_last:
        x = x.permute(0, 3, 1, 2)
    return (x.to(torch.int16) - 128).to(torch.int8).contiguous()


def _order(x: torch.Tensor) -> torch.Tensor:
    """Integers in the order of float32 numbers: of their bits, the magnitude of negative ones reversed."""
    bits = x.contiguous().view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _top_k_meta(x: Any, k: Any) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], k), dtype=torch.int32)


@integer_op("top_k(Tensor x, int k) -> Tensor", _top_k_meta)
def top_k(x: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of the largest scores of each row, best first; of equal scores the one with the lower index first.

    Args:
        x: float32 [..., C].
        k: In [1, C].

    Returns:
        int32 [..., k].
    """
    return torch.sort(_order(x), dim=-1, descending=True, stable=True).indices[..., :k].to(torch.int32)


def _take_scores_meta(x: Any, index: Any) -> torch.Tensor:
    return x.new_empty(index.shape)


@integer_op("take_scores(Tensor x, Tensor index) -> Tensor", _take_scores_meta)
def take_scores(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Scores by index, copied bit for bit.

    Args:
        x: float32 [..., C].
        index: int32 [..., k], each in [0, C).

    Returns:
        float32 [..., k].
    """
    return x.gather(-1, index.long())
