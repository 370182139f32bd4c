"""Attention probabilities: nothing to calibrate."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from .base import CodeObserver, replace_by_codes


class ProbabilityObserver(CodeObserver):
    """Log2 codes of 4 bits (PackQViT; FQ-ViT), or linear codes of 8 bits up to each row's largest probability."""

    def __init__(self, log2: bool = True, **kwargs: Any) -> None:
        """Fixes the grid.

        Args:
            log2: p = 2^-code for codes 0..14 and 0 for 15; else p = code over the sum of its row's codes.
            **kwargs: Fields of the QuantizationSpec.
        """
        super().__init__(**{**kwargs, "dtype": torch.uint8, "quant_min": 0, "quant_max": 15 if log2 else 255})
        self.log2 = log2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x: there is nothing to observe."""
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Nominal parameters; the grid is fixed."""
        return torch.ones(1), torch.zeros(1, dtype=torch.int32)

    def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to the grid."""
        codes = torch.ops.packqvit.quantize_probabilities(x, self.log2)
        return torch.ops.packqvit.dequantize_probabilities(codes, self.log2)

    def convert(self, model: GraphModule, observer: Node) -> None:
        """Inserts the probability quantiser."""
        ops = torch.ops.packqvit
        quantize, dequantize = ops.quantize_probabilities.default, ops.dequantize_probabilities.default
        replace_by_codes(model, observer, quantize, (self.log2,), dequantize, (self.log2,))
