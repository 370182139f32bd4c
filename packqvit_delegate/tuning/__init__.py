"""Label-free tuning: a calibrated model learns to answer like the float model."""

from .distill import TuningReport, tune
from .method import TuningMethod

__all__ = ["TuningMethod", "TuningReport", "tune"]
