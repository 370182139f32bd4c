"""Quantised models that learn: what was trained is, code for code, what the integer program runs."""

from .model import TrainableModel

__all__ = ["TrainableModel"]
