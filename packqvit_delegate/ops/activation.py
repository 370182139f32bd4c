"""Marks what linears read of a residual stream: in float graphs only, where `requantize` takes its place later."""

from __future__ import annotations

import torch

from .library import LIBRARY

LIBRARY.define("activation(Tensor x, Tensor? factor=None) -> Tensor")


def activation(x: torch.Tensor, factor: torch.Tensor | None = None) -> torch.Tensor:
    """The same values, times a factor for each channel; they get codes of their own, as a LayerNorm's result does.

    Args:
        x: Float [..., C].
        factor: Float [C]; None: all 1.

    Returns:
        Of x's type and shape.
    """
    return x.clone() if factor is None else x * factor


LIBRARY.impl("activation", activation, "CompositeImplicitAutograd")
