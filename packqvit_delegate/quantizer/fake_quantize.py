"""The fake-quant twin of the observers, for quantisation-aware training."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e import FakeQuantizeBase

from .observers import CodeObserver


class CodeFakeQuantize(FakeQuantizeBase):
    """Rounds to the grid of an observer, with a straight-through gradient.

    The first `warmup` forward passes in training mode observe only; then the grid is frozen. Its values are those of
    the observer's `fake_quantize`, so that training sees the grid that convert writes.
    """

    def __init__(self, observer: Any, warmup: int = 8, **kwargs: Any) -> None:
        """Builds the twin.

        Args:
            observer: Class or partial of a CodeObserver.
            warmup: Forward passes before the grid is frozen.
            **kwargs: Fields of the QuantizationSpec, handed to the observer.
        """
        super().__init__()
        self.activation_post_process: CodeObserver = observer(**kwargs)
        self.warmup = warmup
        self.register_buffer("seen", torch.zeros(1, dtype=torch.int64))
        for field in ("dtype", "quant_min", "quant_max", "qscheme"):
            setattr(self, field, getattr(self.activation_post_process, field))
        self.ch_axis = getattr(self.activation_post_process, "ch_axis", -1)
        self.is_dynamic = False
        if hasattr(self.activation_post_process, "convert"):
            self.convert = self._convert

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X during the warm-up, then x rounded to the frozen grid."""
        warming = bool(self.seen < self.warmup)
        if self.observer_enabled[0] == 1 and warming:
            self.activation_post_process(x)
            if self.training:
                self.seen += 1
            return x
        if self.fake_quant_enabled[0] == 0:
            return x
        with torch.no_grad():
            difference = self.activation_post_process.fake_quantize(x.detach()) - x
        return x + difference

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The observer's."""
        return self.activation_post_process.calculate_qparams()

    def _convert(self, model: GraphModule, node: Node) -> None:
        self.activation_post_process.convert(model, node)
