"""The backend in ExecuTorch's Python runtime: importing this registers it."""

from .library import cmake_path, executable_path, library_path, load_library, selected_tier, supported_tiers
from .model import CodeGrid, Guess, Model, TensorType, load
from .profile import OperatorTime

load_library()

__all__ = [
    "CodeGrid",
    "Guess",
    "Model",
    "OperatorTime",
    "TensorType",
    "cmake_path",
    "executable_path",
    "library_path",
    "load",
    "load_library",
    "selected_tier",
    "supported_tiers",
]
