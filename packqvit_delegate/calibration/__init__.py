"""Calibration: grids and weights that suit the images, block by block."""

from .batches import Batches
from .sequential import CalibrationMethod, calibrate

__all__ = ["Batches", "CalibrationMethod", "calibrate"]
