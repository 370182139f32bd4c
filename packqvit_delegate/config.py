"""What a user can choose about the quantisation of a model."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from .arguments import check_fields, checked, is_whole
from .errors import PackQViTError

SUPPORTED_BITS = (4, 8)
MAX_CHANNEL_SHIFT = 7
"""Residual codes are shifted by at most this, so that they fit into 16 bits."""

INNER_PRODUCT_LEVELS = 240
"""With no more codes than that, an 8-bit activation and a 4-bit weight add up within a byte (docs/kernels.md)."""


def _supported(bits: Any) -> str | None:
    supported = is_whole(bits) and bits in SUPPORTED_BITS
    return None if supported else f"only {' and '.join(map(str, SUPPORTED_BITS))} bits are supported"


Bits = Annotated[int, _supported]
"""A width that there are codes for."""


@dataclasses.dataclass(frozen=True)
class LayerOverride:
    """Widths of one layer that differ from the rest; None keeps the configuration's.

    Attributes:
        weight_bits: Of its weights (linear layers and the patch embedding).
        activation_bits: Of its output (LayerNorm, activation function, attention, pooling).
    """

    weight_bits: Bits | None = None
    activation_bits: Bits | None = None

    def __post_init__(self) -> None:
        """Checks the widths."""
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class QuantizationConfig:
    """Widths and grids of a quantised Vision Transformer.

    Attributes:
        weight_bits: Of the linear layers inside the blocks.
        activation_bits: Of the inputs of those linear layers: LayerNorm, attention and activation function outputs.
        activation_levels: Codes of an 8-bit activation, 16 to 256. With 240 of them, codes and 4-bit weights add up
            within a byte, which lets the inner-product kernel run on CPUs where that is faster (docs/kernels.md).
        attention_bits: Of q, k and v.
        edge_bits: Of the first and the last layer: patch embedding and classifier weights, the classifier's input.
        residual: `int16`: one scale per addition, growing along the stream. `int8`: outlier-aware, a power-of-two
            shift per channel (PackQViT's power-of-two ratio), fixed at convert.
        max_channel_shift: Largest shift of an int8 residual channel, 0..7.
        probabilities: Attention probabilities as `log2` codes of 4 bits or as `linear` codes of 8 bits.
        input_normalization: (mean, std) per channel when inputs are pixels, (byte / 255 - mean) / std: the input codes
            are then the bytes themselves and cost no accuracy. None: the input range is calibrated.
        overrides: Per layer; keys are patterns (fnmatch) of module names, e.g. `blocks.*.mlp.fc2`. The last match wins.

    Raises:
        PackQViTError: A value is outside its range.
    """

    weight_bits: Bits = 4
    activation_bits: Bits = 4
    activation_levels: int = 256
    attention_bits: Bits = 8
    edge_bits: Bits = 8
    residual: Literal["int8", "int16"] = "int16"
    max_channel_shift: int = MAX_CHANNEL_SHIFT
    probabilities: Literal["log2", "linear"] = "log2"
    input_normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    overrides: Mapping[str, LayerOverride] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks every field."""
        check_fields(self)
        if not 16 <= self.activation_levels <= 256:
            raise PackQViTError(f"activation_levels is {self.activation_levels}, outside 16..256")
        if not 0 <= self.max_channel_shift <= MAX_CHANNEL_SHIFT:
            raise PackQViTError(f"max_channel_shift is {self.max_channel_shift}, outside 0..{MAX_CHANNEL_SHIFT}")
        if self.input_normalization is not None:
            mean, std = (tuple(float(value) for value in values) for values in self.input_normalization)
            object.__setattr__(self, "input_normalization", (mean, std))
            if len(mean) != len(std) or not mean or any(not s > 0 for s in std):
                raise PackQViTError(
                    f"input_normalization {self.input_normalization!r} needs as many positive std as mean values"
                )

    @classmethod
    @checked
    def preset(cls, name: str) -> QuantizationConfig:
        """One of the presets `w8a8`, `w4a8`, `w4a4`.

        Raises:
            PackQViTError: There is no such preset.
        """
        try:
            return PRESETS[name.lower()]
        except KeyError:
            raise PackQViTError(f"no preset {name!r}; choose one of {', '.join(PRESETS)}") from None

    @classmethod
    @checked
    def from_bits(cls, bits: Bits, activation_bits: Bits | None = None) -> QuantizationConfig:
        """The preset for `bits`-bit weights and `activation_bits`-bit activations (default: the same).

        Raises:
            PackQViTError: There is no preset of these widths.
        """
        activation_bits = bits if activation_bits is None else activation_bits
        if (bits, activation_bits) == (8, 4):
            raise PackQViTError("8-bit weights with 4-bit activations gain nothing; use bits=4 or activation_bits=8")
        return cls.preset(f"w{bits}a{activation_bits}")

    def weight_bits_of(self, layer: str, *, edge: bool) -> int:
        """Width of a layer's weights: its override, else that of its kind."""
        default = self.edge_bits if edge else self.weight_bits
        return self._overridden(layer, "weight_bits", default)

    def activation_bits_of(self, layer: str, *, edge: bool = False) -> int:
        """Width of a layer's output: its override, else that of its kind."""
        default = self.edge_bits if edge else self.activation_bits
        return self._overridden(layer, "activation_bits", default)

    def _overridden(self, layer: str, field: str, bits: int) -> int:
        for pattern, override in self.overrides.items():
            if fnmatch.fnmatchcase(layer, pattern) and getattr(override, field) is not None:
                bits = getattr(override, field)
        return bits


PRESETS: dict[str, QuantizationConfig] = {
    "w8a8": QuantizationConfig(weight_bits=8, activation_bits=8, probabilities="linear"),
    "w4a8": QuantizationConfig(
        weight_bits=4, activation_bits=8, activation_levels=INNER_PRODUCT_LEVELS, probabilities="linear"
    ),
    "w4a4": QuantizationConfig(weight_bits=4, activation_bits=4, probabilities="log2"),
}
"""Weights and activations of the blocks; the first and last layers, q, k and v have 8 bits in all of them."""
