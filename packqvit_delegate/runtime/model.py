"""Runs programs in ExecuTorch's Python runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.runtime import Method, Runtime, Verification

from ..arguments import checked, shown
from ..errors import PackQViTError
from ..inputs import contiguous
from .library import load_library
from .program_file import read_program
from .program_tables import backends

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


@dataclasses.dataclass(frozen=True)
class CodeGrid:
    """What the int8 codes of an output stand for: `scale * (code - zero_point)`.

    Attributes:
        scale: Value of one step.
        zero_point: Code of 0.
    """

    scale: float
    zero_point: int

    def values(self, codes: torch.Tensor) -> torch.Tensor:
        """float32 of the codes' shape."""
        return (codes.float() - self.zero_point) * self.scale


class Model:
    """A loaded program and its method."""

    def __init__(self, method: Method, program: Any) -> None:
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
        return [_tensor_type(meta.input_tensor_meta(i), f"input {i}") for i in range(meta.num_inputs())]

    def outputs(self) -> list[TensorType]:
        """What the method gives.

        Raises:
            PackQViTError: An output has elements of a type that no model of ours gives.
        """
        meta = self._method.metadata
        return [_tensor_type(meta.output_tensor_meta(i), f"output {i}") for i in range(meta.num_outputs())]

    def output_grids(self) -> list[CodeGrid]:
        """What the codes of each output stand for, of a program that was exported with `output="int8"`.

        Raises:
            PackQViTError: The program gives something else than codes.
        """
        grids = []
        for index in range(self._method.metadata.num_outputs()):
            names = f"output_scale_{index}", f"output_zero_point_{index}"
            if not set(names) <= self._program.method_names:
                raise PackQViTError(f'output {index} is not given as codes: export with output="int8" for that')
            scale, zero_point = (self._program.load_method(name).execute([])[0] for name in names)
            grids.append(CodeGrid(float(scale), int(zero_point)))
        return grids

    def run(self, *inputs: torch.Tensor | np.ndarray) -> list[torch.Tensor]:
        """The method's outputs.

        Args:
            inputs: Of the exported shapes and types, on the CPU, with any strides; numpy's arrays too.

        Raises:
            PackQViTError: There are more or fewer of them, one is of another kind, or ExecuTorch refuses them.
        """
        count = self._method.metadata.num_inputs()
        if len(inputs) != count:
            raise PackQViTError(f"the program takes {count} input(s), {len(inputs)} were given: {self._signature()}")
        tensors = [self._tensor(index, value) for index, value in enumerate(inputs)]
        try:
            return list(self._method.execute(tensors))
        except RuntimeError as error:
            shapes = ", ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in tensors)
            raise PackQViTError(f"the program does not run on {shapes}, {self._signature()}: {error}") from error

    def _tensor(self, index: int, value: object) -> torch.Tensor:
        """An input as ExecuTorch reads it: it looks at nothing but the address."""
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            value = torch.from_numpy(np.array(value))
        if not isinstance(value, torch.Tensor):
            raise PackQViTError(f"input {index} is {shown(value)}, but must be a tensor; {self._signature()}")
        if value.device.type != "cpu" or value.layout != torch.strided:
            raise PackQViTError(
                f"input {index} is {shown(value)} on {value.device} ({value.layout}), but must lie on the CPU as a "
                "dense tensor"
            )
        return contiguous(value.detach())

    def _signature(self) -> str:
        try:
            return "it takes " + ", ".join(f"{takes.dtype} {takes.shape}" for takes in self.inputs())
        except (PackQViTError, RuntimeError):  # of another maker, with inputs that are no tensors
            return "whose inputs are not only tensors"


def _tensor_type(info: Any, name: str) -> TensorType:
    if info.dtype() not in _DTYPES:
        raise PackQViTError(f"{name} has the ScalarType {info.dtype()}; known are {sorted(_DTYPES)}")
    return TensorType(tuple(info.sizes()), _DTYPES[info.dtype()])


@checked
def load(program: str | Path | bytes, method: str = "forward") -> Model:
    """Loads a .pte with the backend registered.

    Args:
        program: Path, or the bytes themselves.
        method: Of the program.

    Raises:
        MissingFileError: There is no such file; also a FileNotFoundError.
        PackQViTError: It is no program, it calls a backend that is not there, or ExecuTorch refuses it; its log says
            why.
    """
    load_library()
    content = read_program(program)
    registered = Runtime.get().backend_registry.registered_backend_names
    if missing := [name for name in backends(content, method) if name not in registered]:
        raise PackQViTError(
            f"the program calls {' and '.join(missing)}, which this ExecuTorch does not have; it has "
            f"{', '.join(registered)}: export with partitioners of these, or without"
        )
    try:
        loaded = Runtime.get().load_program(content, verification=Verification.InternalConsistency)
        loaded_method = loaded.load_method(method)
    except KeyError as error:
        raise PackQViTError(f"the program has no method {method!r}, only {sorted(loaded.method_names)}") from error
    except UnicodeDecodeError as error:
        raise PackQViTError("cannot load the program: a name in it is damaged; copy or export it again") from error
    except RuntimeError as error:
        raise PackQViTError(f"ExecuTorch cannot load the program: {error}; its log above says why") from error
    return Model(loaded_method, loaded)
