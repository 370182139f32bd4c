"""Vision Transformers entirely in integers, as an ExecuTorch delegate.

After PackQViT (NeurIPS 2023): `export` takes a float ViT or DeiT and a few images, and gives a program that ExecuTorch
runs as one integer-only delegate call. `PackQViTQuantizer` and `PackQViTPartitioner` serve in ExecuTorch's own flow.
"""

from importlib import metadata

from . import ops  # noqa: F401 - registers the operators
from .api import Program, export, finish, lower, prepare, quantize
from .backend import PackQViTBackend
from .calibration import CalibrationMethod
from .config import LayerOverride, QuantizationConfig
from .errors import (
    CalibrationError,
    MissingFileError,
    PackQViTError,
    PlanError,
    RuntimeLibraryError,
    UnsupportedModelError,
)
from .partitioner import PackQViTPartitioner
from .preparation import Pair
from .quantizer import PackQViTQuantizer
from .report import DelegationReport
from .tuning import TuningMethod

try:
    __version__ = metadata.version("packqvit-delegate")
except metadata.PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "CalibrationError",
    "CalibrationMethod",
    "DelegationReport",
    "LayerOverride",
    "MissingFileError",
    "PackQViTBackend",
    "PackQViTError",
    "PackQViTPartitioner",
    "PackQViTQuantizer",
    "Pair",
    "PlanError",
    "Program",
    "QuantizationConfig",
    "RuntimeLibraryError",
    "TuningMethod",
    "UnsupportedModelError",
    "export",
    "finish",
    "lower",
    "prepare",
    "quantize",
]
