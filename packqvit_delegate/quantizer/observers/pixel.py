"""The input of a model that takes normalised pixels: its codes are the bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from .base import CodeObserver, replace_by_codes


class PixelObserver(CodeObserver):
    """code = byte - 128, exactly: (byte / 255 - mean) / std is affine in the byte.

    Watches an input whose channels were brought to one scale (passes/fold_input_normalization.py).
    """

    def __init__(self, scale: float = 1.0, offset: tuple[float, ...] = (0.0,), **kwargs: Any) -> None:
        """Fixes the grid.

        Args:
            scale: Value of one step of the byte, the same for all channels.
            offset: Value of code 0 (byte 128), per channel.
            **kwargs: Fields of the QuantizationSpec.
        """
        super().__init__(**kwargs)
        self.scale = scale
        self.offset = offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x: there is nothing to observe."""
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Nominal parameters; the grid is fixed."""
        return torch.tensor([self.scale]), torch.zeros(1, dtype=torch.int32)

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """X [B, C, H, W] rounded to the grid."""
        offset = torch.tensor(self.offset, device=x.device).reshape(1, -1, 1, 1)
        return ((x - offset) / self.scale).round().clamp(self.quant_min, self.quant_max) * self.scale + offset

    def convert(self, model: GraphModule, observer: Node) -> None:
        """Inserts the pixel quantiser."""
        scale, offset = torch.tensor([self.scale]), torch.tensor(self.offset)
        inverse = torch.tensor([1.0 / self.scale])
        ops = torch.ops.packqvit
        q_args = (inverse, offset, 1, self.quant_min, self.quant_max)
        replace_by_codes(
            model, observer, ops.quantize_offset.default, q_args, ops.dequantize_offset.default, (scale, offset, 1)
        )
