"""Weights of Swin Transformers: Microsoft's and timm's key names, and the sizes that they tell."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models.swin import SwinConfig

_DOWNSAMPLE = re.compile(r"layers\.(\d+)\.downsample\.(.+)")
_COMPUTED = re.compile(r".*\.(attn_mask|relative_position_index)")
_TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"


def to_swin_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of Microsoft's checkpoints, and of timm's before 0.9, to those of timm today.

    There a stage ends with the merging of patches that today's begins with, and the classifier is `head`. Masks and
    indices, which are computed, are left out.
    """
    ends_with_merging = any(name.startswith("layers.0.downsample.") for name in tensors)
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        name = name.removeprefix("module.")
        if _COMPUTED.fullmatch(name):
            continue
        if ends_with_merging and (match := _DOWNSAMPLE.fullmatch(name)):
            name = f"layers.{int(match[1]) + 1}.downsample.{match[2]}"
        renamed[re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)] = tensor
    return renamed


def fit_swin(config: SwinConfig, tensors: Mapping[str, Tensor], source: str) -> SwinConfig:
    """Takes window and number of classes from the weights; everything else must match, and is checked later.

    Raises:
        PackQViTError: The table of relative positions is not that of a square window.
    """
    if _TABLE in tensors:
        offsets = tensors[_TABLE].shape[0]
        side = math.isqrt(offsets)
        if side * side != offsets or side % 2 == 0:
            raise PackQViTError(f"{source}: {_TABLE} has {offsets} rows, which no square window has")
        window = (side + 1) // 2
        if window != config.window:
            # Published models of 12 x 12 windows are for 384 pixels, of 8 x 8 for 256: so many windows in each stage.
            config = replace(config, window=window, image_size=config.image_size // config.window * window)
    if "head.fc.weight" in tensors:
        config = replace(config, num_classes=tensors["head.fc.weight"].shape[0])
    return config
