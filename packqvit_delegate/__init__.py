"""Vision Transformers entirely in integers, as an ExecuTorch delegate.

After PackQViT (NeurIPS 2023): `export` takes a float ViT or DeiT and a few images, and gives a program that ExecuTorch
runs as one integer-only delegate call. `PackQViTQuantizer` and `PackQViTPartitioner` serve in ExecuTorch's own flow.

Importing this package loads nothing yet; each name loads what it needs, and with the first one the operators
`torch.ops.packqvit` are registered. For these alone import `packqvit_delegate.ops`.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from .metadata import Metadata
    from .partitioner import PackQViTPartitioner
    from .preparation import Pair
    from .quantizer import PackQViTQuantizer
    from .report import DelegationReport
    from .tuning import TuningMethod

__all__ = [
    "CalibrationError",
    "CalibrationMethod",
    "DelegationReport",
    "LayerOverride",
    "Metadata",
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

_ERRORS = "CalibrationError MissingFileError PackQViTError PlanError RuntimeLibraryError UnsupportedModelError"
_HOMES = {
    **dict.fromkeys(("Program", "export", "finish", "lower", "prepare", "quantize"), "api"),
    **dict.fromkeys(_ERRORS.split(), "errors"),
    **dict.fromkeys(("LayerOverride", "QuantizationConfig"), "config"),
    "CalibrationMethod": "calibration",
    "DelegationReport": "report",
    "Metadata": "metadata",
    "PackQViTBackend": "backend",
    "PackQViTPartitioner": "partitioner",
    "PackQViTQuantizer": "quantizer",
    "Pair": "preparation",
    "TuningMethod": "tuning",
}
"""The module of each name."""


def __getattr__(name: str) -> Any:
    """A name of this package, or one of its modules, imported now that it is asked for."""
    if name == "__version__":
        from .version import product_version

        return product_version()
    if name in _HOMES:
        importlib.import_module(".ops", __name__)
        value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        importlib.import_module(".ops", __name__)
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
