"""Inputs as programs take them: float32, contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

OTHER_FLOATS = (torch.float16, torch.bfloat16, torch.float64)
"""Floating-point types that become float32."""


def plain(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same values on the CPU, without gradients and contiguous; halves and doubles as float32."""
    return tuple(
        contiguous((tensor.float() if tensor.dtype in OTHER_FLOATS else tensor).detach().cpu()) for tensor in tensors
    )


def contiguous(tensor: Tensor) -> Tensor:
    """The same values in the strides of a new tensor.

    `tensor.contiguous()` keeps any stride of an axis of size one, and runtimes read the order of the axes off them.
    """
    if has_plain_strides(tensor):
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


def has_plain_strides(tensor: Tensor) -> bool:
    """Whether a tensor has the strides of a new one of its shape."""
    stride = 1
    for size, step in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        if step != stride:
            return False
        stride *= max(size, 1)
    return True
