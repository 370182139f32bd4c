"""The errors this package raises for input that it cannot use."""

from __future__ import annotations


class PackQViTError(ValueError):
    """Base of all errors: something about the given model, data or options is wrong; the message says what to do."""


class UnsupportedModelError(PackQViTError):
    """The model has no part that the delegate could run, or a part with a property it can never run."""


class CalibrationError(PackQViTError):
    """Calibration data is missing, has the wrong shape, or gave statistics that cannot be used."""


class PlanError(PackQViTError):
    """An integer operator violates a limit of docs/numerics.md, or a plan cannot be written or read."""


class MissingFileError(PackQViTError, FileNotFoundError):
    """A file that was named is not there."""


class RuntimeLibraryError(PackQViTError):
    """The native library is missing or does not load beside the installed ExecuTorch."""
