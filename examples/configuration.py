"""What options of several commands mean: models, and the quantisation that is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import console  # noqa: F401  to be imported before packqvit_delegate, which it quietens
from packqvit_delegate import QuantizationConfig
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import ZOO

MODEL_HELP = f"{', '.join(ZOO)}; or any name of timm's; or hf:<Hugging Face repository or folder>."


def configuration(
    bits: int,
    activation_bits: int | None,
    residual: str | None = None,
    probabilities: str | None = None,
    max_channel_shift: int | None = None,
) -> QuantizationConfig:
    """The preset of the widths, with every choice that is not None.

    Raises:
        PackQViTError: There is no such preset, or channels are to be shifted that have no shifts.
    """
    choices: dict[str, Any] = {
        "residual": residual,
        "probabilities": probabilities,
        "max_channel_shift": max_channel_shift,
    }
    config = QuantizationConfig.from_bits(bits, activation_bits)
    config = dataclasses.replace(config, **{name: value for name, value in choices.items() if value is not None})
    if max_channel_shift is not None and config.residual != "int8":
        raise PackQViTError("--max-channel-shift is of an int8 residual: add --residual int8")
    return config
