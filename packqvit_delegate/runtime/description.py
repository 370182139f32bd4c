"""What is in a program, read from its file alone: nothing is run, and no native library is needed."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import packqvit_delegate.serialization.plan_generated as fb

from ..errors import PackQViTError
from ..metadata import Metadata
from ..serialization.blob import MAGIC, unwrap_plan
from .program_file import read_program
from .program_tables import backends, constants, kernel_calls, methods, processed_data

_KINDS = {number: name for name, number in vars(fb.Operator).items() if not name.startswith("_")}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer or a patch embedding of a delegate.

    Attributes:
        name: Of its node in the integer graph.
        shape: Of its weight.
        weight_bits: 4 or 8.
        weight_bytes: In the file.
        codes: Least and largest code of its output.
        output: Type of these codes.
    """

    name: str
    shape: tuple[int, ...]
    weight_bits: int
    weight_bytes: int
    codes: tuple[int, int] | None
    output: str


@dataclasses.dataclass(frozen=True)
class Description:
    """What is in a program.

    Attributes:
        size: Bytes of the file.
        metadata: What the program says of itself.
        methods: Names of all methods that compute; what follows is of the one that was asked for.
        backends: That it calls.
        outside: Operators that it runs outside of all backends, by how often.
        operators: Integer operators of its delegates, by how often.
        layers: Linear layers of its delegates.
        arena: Bytes of the delegates' intermediate values.
        constants: Bytes of the delegates' constants; other methods may share them.
        output_grids: Scale and zero point of each output that is codes.
    """

    size: int
    metadata: Metadata
    methods: tuple[str, ...]
    backends: tuple[str, ...]
    outside: Counter[str]
    operators: Counter[str]
    layers: tuple[Layer, ...]
    arena: int
    constants: int
    output_grids: tuple[tuple[float, int], ...]


def describe(program: str | Path | bytes, method: str = "forward") -> Description:
    """Looks into a .pte.

    Args:
        program: Path, or the bytes themselves.
        method: Whose backends and operators count.

    Raises:
        MissingFileError: There is no such file.
        PackQViTError: It is no program, has no such method, or a delegate in it is damaged or of another version.
    """
    content = read_program(program)
    known = constants(content)
    names = tuple(name for name in methods(content) if name not in known)
    if method not in names:
        raise PackQViTError(f"the program has no method {method!r}, only {', '.join(names)}")
    plans = [fb.PlanT.InitFromPackedBuf(unwrap_plan(content[at:])) for at in _delegates(content, method)]
    segments = {segment.key: segment.size for plan in plans for segment in plan.segments or ()}
    grids: list[tuple[float, int]] = []
    while (scale := known.get(f"output_scale_{len(grids)}")) is not None:
        zero_point = known.get(f"output_zero_point_{len(grids)}", (0,))
        grids.append((float(scale[0]), int(zero_point[0])))
    return Description(
        size=len(content),
        metadata=Metadata.of_constants(known),
        methods=names,
        backends=tuple(backends(content, method)),
        outside=Counter(kernel_calls(content, method)),
        operators=Counter(_KINDS[node.opType] for plan in plans for node in plan.nodes),
        layers=tuple(layer for plan in plans for layer in _layers(plan)),
        arena=sum(plan.arenaSize for plan in plans),
        constants=sum(segments.values()),
        output_grids=tuple(grids),
    )


def _delegates(content: bytes, method: str) -> list[int]:
    """Where the blobs of our delegates begin."""
    try:
        found = processed_data(content, method)
    except Exception as error:  # whatever reading damaged tables leads to
        raise PackQViTError("a delegate of the program is damaged; copy or export it again") from error
    return [at for at in found if content.startswith(MAGIC, at)]


def _layers(plan: fb.PlanT) -> list[Layer]:
    found = []
    for node in plan.nodes:
        if _KINDS[node.opType] not in ("Linear", "PatchEmbedding"):
            continue
        weight = plan.constants[node.op.weight]
        bits = 4 if weight.encoding == fb.Encoding.Nibbles else 8
        *rows, columns = map(int, weight.shape)
        value = plan.values[node.op.output]
        output = _TYPES[value.type]
        requantizer = node.op.requantizer
        has_codes = output == "Int8" and requantizer is not None and requantizer.qmin < requantizer.qmax
        found.append(
            Layer(
                name=(node.name or b"").decode().removeprefix("packqvit_"),
                shape=(*rows, columns),
                weight_bits=bits,
                weight_bytes=math.prod(rows) * (-(-columns * bits // 8)),
                codes=(requantizer.qmin, requantizer.qmax) if has_codes else None,
                output=output.lower(),
            )
        )
    return found


_TYPES = {number: name for name, number in vars(fb.DataType).items() if not name.startswith("_")}
