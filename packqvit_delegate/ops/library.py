"""Registration of the integer operators with torch.library under the namespace `packqvit`."""

from __future__ import annotations

import functools
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
    LIBRARY.impl(name, _contiguous(meta), "Meta")

    def register(reference: Callable[..., Any]) -> Callable[..., Any]:
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(name, _contiguous(reference), key)
        return reference

    return register


def _contiguous(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with rows one behind the other, as the runtime has them, whatever the strides of the operands.

    Else to_edge would put a copy, which stays outside the delegate, in front of each reshape behind it.
    """

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return result.contiguous() if isinstance(result, torch.Tensor) else tuple(part.contiguous() for part in result)

    return wrapped


def code_dtype(qmin: int, qmax: int) -> torch.dtype:
    """The type that holds codes of [qmin, qmax]: int8, or int16 when they do not fit."""
    return torch.int8 if -128 <= qmin and qmax <= 127 else torch.int16
