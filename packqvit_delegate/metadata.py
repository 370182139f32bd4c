"""What a program says about itself: how to feed it, what its answers mean, how it was made.

Each fact is a constant method of the .pte, ExecuTorch's own way to keep configuration beside a model: any runtime reads
it by executing a method of this name, without a parser (docs/architecture.md lists them).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .arguments import check_fields
from .data.preprocessing import Preprocessing
from .errors import PackQViTError
from .version import product_version

VERSION = 1
"""Of this set of methods. A program of a later one is refused: it may say what is not understood here."""

Constant = bool | int | float | str
Constants = Mapping[str, tuple[Constant, ...]]
"""By the name of a constant method, what it gives."""

Task = Literal["classification", "features"]


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What is known of a program; every field may be left out.

    Attributes:
        model: Name of the model it was made from.
        preprocessing: From a picture to its input.
        class_names: In the order of the classes.
        task: What its first output is: scores of classes, or features.
        weight_bits: Of the blocks; written by `export`.
        activation_bits: Of the blocks; written by `export`.
        top_k: Best classes that it gives instead of all scores; written by `export`.
        layout: Of its input's channels, "chw" or "hwc"; written by `export`.
        product_version: Of the package that made it; written by `export`.
    """

    model: str | None = None
    preprocessing: Preprocessing | None = None
    class_names: Sequence[str] | None = None
    task: Task | None = None
    weight_bits: int | None = None
    activation_bits: int | None = None
    top_k: int | None = None
    layout: Literal["chw", "hwc"] | None = None
    product_version: str | None = None

    def __post_init__(self) -> None:
        """Checks the fields."""
        check_fields(self)
        if self.class_names is not None:
            object.__setattr__(self, "class_names", tuple(self.class_names))
        for name in (self.model or "", *(self.class_names or ())):
            if "\n" in name or "\0" in name:
                raise PackQViTError(f"the name {name!r} has a line break or a zero byte in it: leave it out")

    def constant_methods(self) -> dict[str, Constant | list[Constant]]:
        """The methods that tell it, for `constant_methods` of ExecuTorch's to_edge_transform_and_lower."""
        pixels = self.preprocessing
        facts: dict[str, Any] = {
            "metadata_version": VERSION,
            "product_version": self.product_version or product_version(),
            "model_name": self.model,
            "task": self.task,
            "weight_bits": self.weight_bits,
            "activation_bits": self.activation_bits,
            "top_k": self.top_k,
            "class_names": None if self.class_names is None else "\n".join(self.class_names),
            "image_layout": self.layout,
        }
        if pixels is not None:
            facts |= {
                "image_size": [pixels.size, pixels.size],
                "image_channels": "rgb",
                "image_mean": [float(value) for value in pixels.mean],
                "image_std": [float(value) for value in pixels.std],
                "image_crop": pixels.crop,
                "image_crop_fraction": float(pixels.crop_fraction),
                "image_interpolation": pixels.interpolation,
            }
        return {name: value for name, value in facts.items() if value is not None}

    @classmethod
    def of_constants(cls, constants: Constants) -> Metadata:
        """What a program's constant methods tell; nothing of a program that has none.

        Raises:
            PackQViTError: A later version wrote them, or one does not make sense.
        """
        if "metadata_version" not in constants:
            return cls()
        version = _one(constants, "metadata_version", int)
        maker = _one(constants, "product_version", str)
        if version > VERSION:
            raise PackQViTError(
                f"the program was made by packqvit-delegate {maker}, which says more in it than {product_version()} "
                "understands: install that version, or a later one"
            )
        names = _one(constants, "class_names", str)
        try:
            return cls(
                model=_one(constants, "model_name", str),
                preprocessing=_preprocessing(constants),
                class_names=None if names is None else names.split("\n"),
                task=_one(constants, "task", str),
                weight_bits=_one(constants, "weight_bits", int),
                activation_bits=_one(constants, "activation_bits", int),
                top_k=_one(constants, "top_k", int),
                layout=_one(constants, "image_layout", str),
                product_version=maker,
            )
        except PackQViTError as error:
            raise PackQViTError(f"what the program says of itself does not make sense: {error}") from error


NAMES = frozenset(Metadata("", Preprocessing(), (), "features", 8, 8, 1, "chw", "").constant_methods())
"""Of all constant methods that a program may have for its metadata."""


def _preprocessing(constants: Constants) -> Preprocessing | None:
    if "image_size" not in constants:
        return None
    height, width = _several(constants, "image_size", int, 2)
    channels = _one(constants, "image_channels", str)
    if height != width or channels != "rgb":
        raise PackQViTError(f"it takes {channels} images of {height} x {width} pixels, not square RGB ones")
    return Preprocessing(
        size=height,
        crop_fraction=_one(constants, "image_crop_fraction", float),
        mean=_several(constants, "image_mean", float, 3),
        std=_several(constants, "image_std", float, 3),
        interpolation=_one(constants, "image_interpolation", str),
        crop=_one(constants, "image_crop", str),
    )


def _one(constants: Constants, name: str, kind: type) -> Any:
    return None if name not in constants else _several(constants, name, kind, 1)[0]


def _several(constants: Constants, name: str, kind: type, count: int) -> tuple[Any, ...]:
    values = constants.get(name, ())
    if len(values) != count or not all(type(value) is kind for value in values):
        raise PackQViTError(f"its method {name} gives {values!r}, but {count} {kind.__name__} were expected")
    return values
