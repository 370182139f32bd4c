"""Calibration: grids and weights that suit the images, block by block."""

from .sequential import CalibrationMethod, calibrate

__all__ = ["CalibrationMethod", "calibrate"]
