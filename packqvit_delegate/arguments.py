"""One check at the door: what callers give is held against the annotations of the function or class that takes it.

An annotation is the whole declaration. Beyond a type it can carry a rule, `Annotated[int, supported_bits]`, which then
decides alone. So a wrong argument is named at the first step, before any work.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union

import numpy as np
import torch

from .errors import PackQViTError

_CONTAINERS = (Sequence, list, Iterable, tuple)
_CHOICES = (Union, types.UnionType, Literal)

P = ParamSpec("P")
R = TypeVar("R")

Rule = Callable[[Any], str | None]
"""What is wrong with a value, as the words behind "<name> is <value>, but "; None: nothing."""

_WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    bool: ("True or False", "True or False"),
    str: ("a text", "texts"),
    bytes: ("bytes", "bytes"),
    Path: ("a path", "paths"),
    torch.Tensor: ("a tensor", "tensors"),
    torch.nn.Module: ("a torch.nn.Module", "torch.nn.Module objects"),
    type(None): ("None", "None"),
}
"""One of a kind, and many."""

_ADVICE = {
    "QuantizationConfig": "QuantizationConfig.preset('w8a8') is one",
    "CalibrationMethod": "CalibrationMethod(rounding='nearest') is one",
    "TuningMethod": "TuningMethod(steps=200) is one",
    "TrainingMethod": "qat.TrainingMethod(steps=2000) is one",
    "LayerOverride": "LayerOverride(weight_bits=8) is one",
    "LearningRates": "LearningRates().scaled(0.5) is one",
    "Module": "packqvit_delegate.models.load(name, weights).module is one",
    "QatModel": "qat.prepare(...) gives one",
    "Pair": "packqvit_delegate.prepare(...) gives one",
    "Preprocessing": "packqvit_delegate.models.load(name, weights).preprocessing is one",
    "ImageFolder": "ImageFolder.open(path) gives one",
    "Iterable": "[b.images for b in ImageFolder.open(path).batches(16, preprocessing)] reads them from a folder",
}
"""How to come by what is wanted, by the name of its class."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function check its arguments against its annotations when it is called.

    Raises:
        PackQViTError: An argument is of another kind; the message names it, what came and what is expected.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        check(signature.bind(*args, **kwargs).arguments, _hints(function))
        return function(*args, **kwargs)

    return wrapped


def check_fields(instance: Any) -> None:
    """Checks all fields of a dataclass against their annotations.

    Raises:
        PackQViTError: A field is of another kind; the message names it, what came and what is expected.
    """
    fields = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    check(fields, _hints(type(instance)))  # type: ignore[arg-type]


def check(values: Mapping[str, Any], hints: Mapping[str, Any]) -> None:
    """Holds values against annotations of the same names.

    Raises:
        PackQViTError: One does not fit.
    """
    for name, value in values.items():
        if name in hints and (problem := _problem(name, value, hints[name])):
            raise PackQViTError(problem)


@functools.cache
def _hints(declared: Any) -> dict[str, Any]:
    return typing.get_type_hints(declared, include_extras=True)


def _problem(name: str, value: Any, hint: Any) -> str | None:
    """A sentence about the first thing that does not fit, inside of containers too."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        wrong = parts[1](value)
        return wrong and f"{name} is {shown(value)}, but {wrong}"
    if origin in (Union, types.UnionType):
        problems = [_problem(name, value, part) for part in parts]
        # An alternative that came closer says more: a tuple, but with a wrong second item.
        closer = [p for p, part in zip(problems, parts, strict=True) if p != _refusal(name, value, part)]
        return None if None in problems else closer[0] if closer else _refusal(name, value, hint)
    if not _is_kind(value, origin or hint, parts):
        return _refusal(name, value, hint)
    for key, item, part in _items(value, origin, parts):
        if problem := _problem(f"{name}[{key}]", item, part):
            return problem
    return None


def is_whole(value: Any) -> bool:
    """Whether a value is an integer, numpy's included; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_kind(value: Any, kind: Any, parts: tuple[Any, ...]) -> bool:
    """Whether a value is of a kind, whatever it contains."""
    if kind is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if kind is int:
        return is_whole(value)
    if kind is float:
        return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if kind is bool:
        return isinstance(value, bool | np.bool_)
    if kind is Path:
        return isinstance(value, os.PathLike)
    if kind is Iterable:  # also what has only __getitem__
        return hasattr(value, "__iter__") and not isinstance(value, str | bytes | Mapping)
    if kind is Sequence or kind is tuple:  # arrays too, which are none by name
        sized = isinstance(value, Collection) and hasattr(value, "__getitem__")
        of_numbers = parts[0] in (int, float) or not isinstance(value, np.ndarray | torch.Tensor)
        fits = sized and of_numbers and not isinstance(value, str | bytes | Mapping)
        return fits and (kind is Sequence or parts[1:] == (...,) or len(value) == len(parts))
    if kind is Callable:
        return callable(value)
    return kind is Any or not isinstance(kind, type) or isinstance(value, kind)


def _items(value: Any, origin: Any, parts: tuple[Any, ...]) -> Iterator[tuple[Any, Any, Any]]:
    """Key, item and annotation of everything in a container, as far as that can be looked at without using it up."""
    if origin in _CONTAINERS and (origin is not Iterable or isinstance(value, list | tuple)):
        items = value.tolist() if isinstance(value, np.ndarray | torch.Tensor) else value
        of_one_kind = origin is not tuple or parts[1:] == (...,)
        for index, item in enumerate(items):
            yield index, item, parts[0] if of_one_kind else parts[index]
    elif isinstance(value, Mapping) and parts:
        for key, item in value.items():
            yield repr(key), key, parts[0]
            yield repr(key), item, parts[1]


def _refusal(name: str, value: Any, hint: Any) -> str:
    kinds = [typing.get_origin(part) or part for part in _members(hint)]
    refusal = f"{name} is {shown(value)}, but must be {_wanted(hint)}"
    if any(isinstance(value, type) and isinstance(kind, type) and issubclass(value, kind) for kind in kinds):
        return f"{refusal}: give an object of it, {value.__name__}(...)"
    advice = next((_ADVICE[kind.__name__] for kind in kinds if getattr(kind, "__name__", "") in _ADVICE), None)
    return f"{refusal}; {advice}" if advice else refusal


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _wanted(hint: Any, many: bool = False) -> str:
    """An annotation in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in _CHOICES:
        *others, last = _alternatives(hint, many)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is Annotated:
        return _wanted(parts[0], many)
    if origin is tuple and parts[1:] != (...,):
        return f"({', '.join(map(_wanted, parts))})"
    if origin in _CONTAINERS:
        name = "tuple" if origin is tuple else "list"
        return f"{f'{name}s' if many else f'a {name}'} of {_wanted(parts[0], True)}"
    if origin is Mapping:
        return f"a dict from {_wanted(parts[0], True)} to {_wanted(parts[1], True)}"
    if origin is Callable:
        return "functions" if many else "a function"
    if hint in _WORDS:
        return _WORDS[hint][many]
    name = getattr(hint, "__qualname__", str(hint))
    return f"{name} objects" if many else _one(name)


def _one(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def _alternatives(hint: Any, many: bool) -> list[str]:
    """What an annotation leaves to choose between, None last."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return [repr(part) for part in parts]
    if origin not in _CHOICES:
        return [_wanted(hint, many)]
    ordered = sorted(parts, key=lambda part: part is type(None))
    return list(dict.fromkeys(word for part in ordered for word in _alternatives(part, many)))


def shown(value: Any) -> str:
    """A value in a few words, for messages: small ones as they are, of large ones the kind, type and shape."""
    if isinstance(value, torch.Tensor):
        return f"a tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a numpy array {value.dtype} {list(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, str | bytes | bool | numbers.Number | torch.dtype):
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:70]}... ({len(value)} long)"  # type: ignore[arg-type]
    if isinstance(value, Mapping):
        keys = ", ".join(map(repr, list(value)[:4]))
        return f"{_one(type(value).__name__)} with the keys {keys}" if value else f"an empty {type(value).__name__}"
    if isinstance(value, list | tuple):
        kinds, name = ", ".join(dict.fromkeys(type(item).__name__ for item in value)), type(value).__name__
        return f"{_one(name)} of {len(value)} ({kinds})" if value else f"an empty {name}"
    if isinstance(value, os.PathLike):
        return f"the path {os.fspath(value)!r}"
    if inspect.isroutine(value):
        return f"the function {value.__name__}"
    return f"of the type {type(value).__name__}"
