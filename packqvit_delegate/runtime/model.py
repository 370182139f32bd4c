"""Runs programs in ExecuTorch's Python runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from executorch.runtime import Method, Runtime, Verification

from ..errors import PackQViTError
from ..inputs import contiguous
from .library import load_library

# ScalarType, as programs number it.
_DTYPES = {0: torch.uint8, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.int64, 6: torch.float32}


@dataclasses.dataclass(frozen=True)
class TensorType:
    """Shape and type of a tensor that a program takes.

    Attributes:
        shape: Fixed at export.
        dtype: Of the elements.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def channels_last(self) -> bool:
        """Whether it is RGB bytes [B, H, W, 3]: only those have the channels at the end."""
        return self.dtype == torch.uint8 and len(self.shape) == 4 and self.shape[-1] == 3


class Model:
    """A loaded program and its method."""

    def __init__(self, method: Method, program: object) -> None:
        """Wraps a method.

        Args:
            method: Of the program.
            program: Kept alive as long as the method.
        """
        self._method = method
        self._program = program

    def inputs(self) -> list[TensorType]:
        """What the method takes.

        Raises:
            PackQViTError: An input has elements of a type that no model of ours takes.
        """
        meta = self._method.metadata
        return [_tensor_type(meta.input_tensor_meta(i), i) for i in range(meta.num_inputs())]

    def run(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """The method's outputs for inputs of the exported shapes and types, in any strides.

        Raises:
            PackQViTError: ExecuTorch refuses the inputs.
        """
        try:
            return list(self._method.execute([contiguous(tensor.detach()) for tensor in inputs]))
        except RuntimeError as error:
            shapes = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in inputs)
            raise PackQViTError(f"the program does not run on {shapes}: {error}") from error


def _tensor_type(info: Any, index: int) -> TensorType:
    if info.dtype() not in _DTYPES:
        raise PackQViTError(f"input {index} has the ScalarType {info.dtype()}; known are {sorted(_DTYPES)}")
    return TensorType(tuple(info.sizes()), _DTYPES[info.dtype()])


def load(program: str | Path | bytes, method: str = "forward") -> Model:
    """Loads a .pte with the backend registered.

    Args:
        program: Path, or the bytes themselves.
        method: Of the program.

    Raises:
        FileNotFoundError: There is no such file.
        PackQViTError: ExecuTorch refuses the program; its log says why.
    """
    load_library()
    if not isinstance(program, bytes):
        path = Path(program)
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
        program = path.read_bytes()
    try:
        loaded = Runtime.get().load_program(program, verification=Verification.InternalConsistency)
        loaded_method = loaded.load_method(method)
    except KeyError as error:
        raise PackQViTError(f"the program has no method {method!r}, only {sorted(loaded.method_names)}") from error
    except RuntimeError as error:
        raise PackQViTError(f"ExecuTorch cannot load the program: {error}; its log above says why") from error
    return Model(loaded_method, loaded)
