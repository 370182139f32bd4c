"""GELU of a bounded input: in float graphs only, where a table takes its place later."""

from __future__ import annotations

import torch
from torch.nn import functional

from .library import LIBRARY

LIBRARY.define("saturating_gelu(Tensor x, float bound, str approximate='none') -> Tensor")


def saturating_gelu(x: torch.Tensor, bound: float, approximate: str = "none") -> torch.Tensor:
    """gelu(min(x, bound)).

    Args:
        x: Float, any shape.
        bound: Larger inputs count as this.
        approximate: As torch.nn.functional.gelu's.

    Returns:
        Of x's type and shape.
    """
    return functional.gelu(x.clamp_max(bound), approximate=approximate)


LIBRARY.impl("saturating_gelu", saturating_gelu, "CompositeImplicitAutograd")
