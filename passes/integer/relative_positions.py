"""Relative positions of queries on a map, in codes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from packqvit_delegate.ops.arithmetic import INT16_MAX
from packqvit_delegate.requantizer import MAX_SHIFT, normalized_multiplier

from ..attention import Attention
from .context import LoweringContext, NotLowered

_MOST = 1 << 27
"""Of what a query adds for a distance: two of them, scores and a bias together stay below 2^30 (docs/numerics.md)."""


@dataclasses.dataclass(frozen=True)
class RelativePositions:
    """What `packqvit.add_relative_bias` takes behind scores and queries.

    Attributes:
        numbers: int8 [H or 1, O, d].
        rows: Of the map.
        columns: Of the map.
        multiplier: Of the products.
        shift: Of the products.
        reach: No product is larger then, in steps of the scores.
    """

    numbers: Any
    rows: int
    columns: int
    multiplier: int
    shift: int
    reach: float

    @property
    def arguments(self) -> tuple[Any, ...]:
        """In the operator's order."""
        return self.numbers, self.rows, self.columns, self.multiplier, self.shift


def relative_positions(context: LoweringContext, attention: Attention, step: float) -> RelativePositions | None:
    """The relative positions of an attention on an 8-bit grid; None where it has none, or they are all 0.

    Args:
        context: Makes the constant.
        attention: Any.
        step: That of k, times the factor on the scores: a step of `numbers` over this one is one of their products over
            one of the scores, whatever the step of q is.

    Raises:
        NotLowered: They are too large.
    """
    if attention.relative is None:
        return None
    _, table, rows, columns = attention.relative.args
    numbers = context.tensor(table).double()
    largest = float(numbers.abs().max())
    if not largest:
        return None
    unit = largest / 127
    codes = torch.round(numbers / unit)
    multiplier, shift = normalized_multiplier(unit / step)
    shift += INT16_MAX.bit_length()
    if shift > MAX_SHIFT:
        multiplier, shift = round(multiplier * 2.0 ** (MAX_SHIFT - shift)), MAX_SHIFT
    reach = 128 * float(codes.abs().sum(-1).max()) * multiplier * 2.0**-shift + 0.5
    if shift < 0 or reach > _MOST:
        raise NotLowered(
            f"its relative positions of up to {largest:.3g} are too large beside keys that are multiples of "
            f"{step:.3g}: either would have to be scaled"
        )
    constant = context.constant(f"{attention.softmax.name}_relative", codes.to(torch.int8))
    return RelativePositions(constant, rows, columns, multiplier, shift, reach)  # type: ignore[arg-type]
