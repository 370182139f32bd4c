"""Builds torchao quantisation specs from this package's observers or their fake-quant twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torchao.quantization.pt2e.quantizer import QuantizationSpec

from ..config import QuantizationConfig
from .fake_quantize import CodeFakeQuantize
from .observers import (
    ChannelShiftObserver,
    CodeObserver,
    Int16ResidualObserver,
    MinMSEObserver,
    PixelObserver,
    ProbabilityObserver,
    WeightObserver,
)


def code_range(bits: int, symmetric: bool = False) -> tuple[int, int]:
    """Signed codes of a width; without the most negative one when symmetric."""
    top = 2 ** (bits - 1) - 1
    return (-top if symmetric else -top - 1), top


@dataclasses.dataclass(frozen=True)
class SpecFactory:
    """The spec of each kind of tensor.

    Attributes:
        config: The widths.
        is_qat: Fake-quant modules instead of observers.
    """

    config: QuantizationConfig
    is_qat: bool = False

    def _spec(
        self, observer: type[CodeObserver], qmin: int, qmax: int, dtype: torch.dtype = torch.int8, **kwargs: Any
    ) -> QuantizationSpec:
        constructor: Any = observer.with_args(**kwargs)
        if self.is_qat:
            constructor = CodeFakeQuantize.with_args(observer=constructor)
        scheme = torch.per_channel_symmetric if observer is WeightObserver else torch.per_tensor_affine
        return QuantizationSpec(
            dtype=dtype,
            observer_or_fake_quant_ctr=constructor,
            quant_min=qmin,
            quant_max=qmax,
            qscheme=scheme,
            ch_axis=0 if observer is WeightObserver else None,
        )

    def weight(self, bits: int) -> QuantizationSpec:
        """Symmetric per output channel."""
        return self._spec(WeightObserver, *code_range(bits, symmetric=True))

    def activation(self, bits: int) -> QuantizationSpec:
        """Affine per tensor, least squared error."""
        return self._spec(MinMSEObserver, *self.activation_codes(bits))

    def activation_codes(self, bits: int) -> tuple[int, int]:
        """Smallest and largest code of an activation."""
        qmin, qmax = code_range(bits)
        levels = self.config.activation_levels
        return max(qmin, -(levels // 2)), min(qmax, (levels - 1) // 2)

    def before(self, function: Callable[[torch.Tensor], torch.Tensor]) -> QuantizationSpec:
        """Affine, 8 bits, least squared error after `function`: the input of a table."""
        return self._spec(MinMSEObserver, *code_range(8), function=function)

    def attention_input(self, constant: bool = False) -> QuantizationSpec:
        """Symmetric per tensor: q, k and v; or q that is a constant."""
        codes = code_range(self.config.attention_bits, symmetric=True)
        return self._spec(MinMSEObserver, *codes, symmetric=True, complete=constant)

    def probabilities(self) -> QuantizationSpec:
        """Log2 or linear codes."""
        log2 = self.config.probabilities == "log2"
        return self._spec(ProbabilityObserver, 0, 15 if log2 else 255, torch.uint8, log2=log2)

    def branch(self) -> QuantizationSpec:
        """Symmetric per tensor, 16 bits: what a norm reads, which nothing else does."""
        return self._spec(Int16ResidualObserver, -32767, 32767, torch.int16)

    def residual(self) -> QuantizationSpec:
        """The residual stream."""
        if self.config.residual == "int16":
            return self.branch()
        return self._spec(ChannelShiftObserver, -128, 127, max_shift=self.config.max_channel_shift)

    def pixels(self, scale: float, offset: tuple[float, ...]) -> QuantizationSpec:
        """Bytes."""
        return self._spec(PixelObserver, -128, 127, scale=scale, offset=offset)
