"""Registration of the integer operators with torch.library under the namespace `packqvit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.library import Library

LIBRARY = Library("packqvit", "DEF")


def integer_op(schema: str, meta: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Defines `packqvit::<schema>` with the decorated function as its CPU and CUDA implementation.

    Args:
        schema: Operator schema without the namespace, e.g. `"lookup_table(Tensor x, Tensor table) -> Tensor"`.
        meta: Gives the output for fake tensors: right shape and dtype, no values.

    Returns:
        A decorator that registers the reference and returns it unchanged.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, meta, "Meta")

    def register(reference: Callable[..., Any]) -> Callable[..., Any]:
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(name, reference, key)
        return reference

    return register


def code_dtype(qmin: int, qmax: int) -> torch.dtype:
    """The type that holds codes of [qmin, qmax]: int8, or int16 when they do not fit."""
    return torch.int8 if -128 <= qmin and qmax <= 127 else torch.int16
