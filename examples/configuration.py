"""What options of several commands mean: models, and the quantisation that is asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import console  # noqa: F401  to be imported before packqvit_delegate, which it quietens
from packqvit_delegate import QuantizationConfig
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import ZOO, LoadedModel

MEAN_HELP = "Of R, G and B, of the pixels that the weights were trained on, e.g. 0.5,0.5,0.5; default: the model's own."
STD_HELP = "And their standard deviation."
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


def with_normalization(loaded: LoadedModel, mean: str | None, std: str | None) -> LoadedModel:
    """A model whose weights were trained on pixels of another normalisation than its published ones.

    Raises:
        PackQViTError: One of the two is missing, or is not three numbers.
    """
    if mean is None and std is None:
        return loaded
    if mean is None or std is None:
        raise PackQViTError("--mean and --std go together: give both, e.g. --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5")
    changed = dataclasses.replace(loaded.preprocessing, mean=numbers("--mean", mean), std=numbers("--std", std))
    return dataclasses.replace(loaded, preprocessing=changed)


def numbers(option: str, text: str | None) -> tuple[float, ...]:
    """What an option of three numbers says.

    Raises:
        PackQViTError: It is something else.
    """
    try:
        return tuple(float(part) for part in (text or "").split(","))
    except ValueError as error:
        raise PackQViTError(f"{option} {text!r} must be three numbers with commas between, e.g. 0.5,0.5,0.5") from error
