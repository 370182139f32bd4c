"""Quantisation with torchao's PT2E flow: the quantizer, its observers and their fake-quant twins."""

from .. import ops  # noqa: F401  registers the operators that observers name
from .fake_quantize import CodeFakeQuantize
from .observers import (
    ChannelShiftObserver,
    ClippingObserver,
    Int16ResidualObserver,
    MinMSEObserver,
    PixelObserver,
    ProbabilityObserver,
    WeightObserver,
)
from .quantizer import PackQViTQuantizer

__all__ = [
    "ChannelShiftObserver",
    "ClippingObserver",
    "CodeFakeQuantize",
    "Int16ResidualObserver",
    "MinMSEObserver",
    "PackQViTQuantizer",
    "PixelObserver",
    "ProbabilityObserver",
    "WeightObserver",
]
