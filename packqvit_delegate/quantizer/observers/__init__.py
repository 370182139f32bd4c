"""Observers: each decides the integer grid of one kind of tensor."""

from .affine import AffineObserver, ClippingObserver, MinMSEObserver
from .base import CodeObserver, SampledObserver
from .pixel import PixelObserver
from .probability import ProbabilityObserver
from .residual import ChannelShiftObserver, Int16ResidualObserver
from .weight import WeightObserver

__all__ = [
    "AffineObserver",
    "ChannelShiftObserver",
    "ClippingObserver",
    "CodeObserver",
    "Int16ResidualObserver",
    "MinMSEObserver",
    "PixelObserver",
    "ProbabilityObserver",
    "SampledObserver",
    "WeightObserver",
]
