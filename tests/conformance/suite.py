"""Writes cases for `packqvit_conformance`, which runs them natively, under qemu or on a phone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from conformance.cases import Family, make_family
from packqvit_delegate import Program


@functools.cache
def lowered_family(name: str, seed: int = 0) -> tuple[Family, Program]:
    """A family and its program, lowered once for all tests of the process."""
    family = make_family(name, seed)
    return family, family.lower()


def write_case(
    folder: Path, name: str, program: Program, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> None:
    """`<name>.pte`, `<name>.in<i>.bin` and `<name>.out<i>.bin`: raw little-endian tensors."""
    program.save(folder / f"{name}.pte")
    for kind, tensors in (("in", inputs), ("out", outputs)):
        for i, tensor in enumerate(tensors):
            (folder / f"{name}.{kind}{i}.bin").write_bytes(tensor.contiguous().numpy().tobytes())
