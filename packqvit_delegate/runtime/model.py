"""Runs programs in ExecuTorch's Python runtime."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.extension.pybindings import _C
from executorch.runtime import Method, Runtime, Verification
from PIL import Image

from ..arguments import checked, shown
from ..data.preprocessing import Preprocessing, to_image
from ..errors import PackQViTError
from ..inputs import contiguous
from ..metadata import Constants, Metadata
from .library import load_library, supported_tiers
from .profile import OperatorTime, operator_times
from .program_file import read_program
from .program_tables import backends, constants, methods

_TIER = "PACKQVIT_TIER"
"""The environment variable that the native library reads when it loads a delegate."""

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


@dataclasses.dataclass(frozen=True)
class Guess:
    """One of the best classes of a picture.

    Attributes:
        index: Of the class.
        name: Of the class, where the program knows it.
        score: Its logit.
        probability: In [0, 1]; None where the program gives the best classes only, of which the others are not known.
    """

    index: int
    name: str | None
    score: float
    probability: float | None


class Model:
    """A loaded program and its method.

    Attributes:
        info: What the program says of itself; all fields are None in one that says nothing.
    """

    def __init__(self, method: Method, program: Any, constants: Constants, content: bytes, profiled: bool) -> None:
        """Wraps a method.

        Args:
            method: Of the program.
            program: Kept alive as long as the method.
            constants: What its constant methods give.
            content: The .pte.
            profiled: Whether ExecuTorch notes the times of operators.
        """
        self._method = method
        self._program = program
        self._constants = constants
        self._content = content
        self._profiled = profiled
        self.info = Metadata.of_constants(constants)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """From a picture to the program's input; None where the program does not say."""
        return self.info.preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the classes; none where the program does not say."""
        return tuple(self.info.class_names or ())

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
            values = [self._constants.get(f"output_{name}_{index}") for name in ("scale", "zero_point")]
            if None in values:
                raise PackQViTError(f'output {index} is not given as codes: export with output="int8" for that')
            scale, zero_point = (value[0] for value in values if value)
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

    @checked
    def prepare(self, picture: str | Path | Image.Image | np.ndarray) -> torch.Tensor:
        """A picture as this program takes it.

        Args:
            picture: A path; a PIL image of any mode; or an array, uint8 [H, W, 3] of R, G and B, or [H, W] of grey. Of
                any size: it is resized and cropped as the program says.

        Returns:
            float32 or uint8 of the input's shape; the same picture in every row of a batch.

        Raises:
            PackQViTError: The picture cannot be read, or the program does not say how it is to be prepared.
        """
        if self.preprocessing is None:
            raise PackQViTError(
                "the program does not say how pictures become its input: export it with metadata=loaded.metadata, or "
                "prepare them with a Preprocessing and use run"
            )
        return self.tensor(self.preprocessing.pixels(to_image(picture)), self.preprocessing)

    @checked
    def tensor(self, pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
        """Resized pixels in the type and the order of the program's input.

        Args:
            pixels: uint8 [3, S, S], of `preprocessing.pixels`.
            preprocessing: Normalises them where the program takes floats.

        Returns:
            float32 or uint8 of the input's shape; the same picture in every row of a batch.

        Raises:
            PackQViTError: The program takes something else than images of this size.
        """
        takes = self.inputs()[0]
        image = pixels if takes.dtype == torch.uint8 else preprocessing.normalize(pixels)
        image = image.permute(1, 2, 0) if takes.channels_last else image
        if len(self.inputs()) != 1 or tuple(image.shape) != takes.shape[1:]:
            raise PackQViTError(
                f"the program takes no {preprocessing.size} pixels wide RGB pictures; {self._signature()}"
            )
        return image.expand(takes.shape).contiguous()

    @checked
    def predict(self, picture: str | Path | Image.Image | np.ndarray, top: int = 5) -> list[Guess]:
        """The best classes of a picture.

        Args:
            picture: As for `prepare`.
            top: How many; fewer where the program gives fewer.

        Raises:
            PackQViTError: As `prepare`; or the program does not give scores of classes.
        """
        outputs = self.run(self.prepare(picture))
        if self.info.task == "features":
            raise PackQViTError("the program gives features, not classes: run(prepare(picture)) gives them")
        if len(outputs) == 2 and not outputs[0].is_floating_point() and outputs[0].ndim == 2:
            found = zip(outputs[0][0].tolist(), outputs[1][0].tolist(), strict=True)
            return [Guess(index, self._name(index), score, None) for index, score in list(found)[:top]]
        if outputs[0].ndim != 2:
            raise PackQViTError(f"the program gives {shown(outputs[0])}, which are no scores of classes")
        logits = outputs[0].float()
        if not outputs[0].is_floating_point():
            logits = self.output_grids()[0].values(outputs[0])
        probabilities = logits[0].softmax(0)
        best = sorted(range(logits.shape[1]), key=lambda index: -float(logits[0, index]))[:top]
        return [Guess(i, self._name(i), float(logits[0, i]), float(probabilities[i])) for i in best]

    def _name(self, index: int) -> str | None:
        return self.classes[index] if index < len(self.classes) else None

    def operator_times(self) -> list[OperatorTime]:
        """The time of each integer operator over all runs so far, in the order of execution.

        Raises:
            PackQViTError: The program was not loaded with `profile=True`, has not run, or has several delegate calls.
        """
        if not self._profiled:
            raise PackQViTError("the program was loaded without profile=True: nothing was noted")
        return operator_times(self._content, self._program)

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
def load(
    program: str | Path | bytes,
    method: str | None = None,
    *,
    threads: int | None = None,
    tier: str | None = None,
    profile: bool = False,
) -> Model:
    """Loads a .pte with the backend registered.

    Args:
        program: Path, or the bytes themselves.
        method: Of the program; None: `forward`, or the only one that computes something.
        threads: Of ExecuTorch's pool, for all programs of the process; None: as it is.
        tier: Of the kernels of this program (`supported_tiers()`); None: the CPU's best.
        profile: Notes the time of each operator, for `Model.operator_times`; runs take a little longer.

    Raises:
        MissingFileError: There is no such file; also a FileNotFoundError.
        PackQViTError: It is no program, it calls a backend that is not there, or ExecuTorch refuses it; its log says
            why. Or this CPU has no such tier.
    """
    load_library()
    if tier is not None and tier not in supported_tiers():
        raise PackQViTError(f"this CPU has no tier {tier!r}; it has {', '.join(supported_tiers())}")
    if threads is not None and threads < 1:
        raise PackQViTError(f"threads is {threads}, but must be at least 1")
    content = read_program(program)
    known = constants(content)
    method = method or _default_method(content, known)
    registered = Runtime.get().backend_registry.registered_backend_names
    if missing := [name for name in backends(content, method) if name not in registered]:
        raise PackQViTError(
            f"the program calls {' and '.join(missing)}, which this ExecuTorch does not have; it has "
            f"{', '.join(registered)}: export with partitioners of these, or without"
        )
    if threads is not None:
        _C._unsafe_reset_threadpool(threads)
    try:
        loaded = Runtime.get().load_program(
            content, verification=Verification.InternalConsistency, enable_etdump=profile
        )
        with _tier(tier):
            loaded_method = loaded.load_method(method)
    except KeyError as error:
        names = sorted(loaded.method_names - known.keys())
        raise PackQViTError(f"the program has no method {method!r}, only {names}") from error
    except UnicodeDecodeError as error:
        raise PackQViTError("cannot load the program: a name in it is damaged; copy or export it again") from error
    except RuntimeError as error:
        raise PackQViTError(f"ExecuTorch cannot load the program: {error}; its log above says why") from error
    return Model(loaded_method, loaded, known, content, profile)


def _default_method(content: bytes, constants: Constants) -> str:
    """`forward`, or the only method that is not constant."""
    names = [name for name in methods(content) if name not in constants]
    return names[0] if len(names) == 1 else "forward"


@contextlib.contextmanager
def _tier(name: str | None) -> Iterator[None]:
    """Kernels of a tier for what is loaded meanwhile: ExecuTorch's Python binding hands on no options of backends."""
    if name is None:
        yield
        return
    before = os.environ.get(_TIER)
    os.environ[_TIER] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TIER]
        else:
            os.environ[_TIER] = before
