"""Writes cases for `packqvit_conformance`, which runs them natively, under qemu or on a phone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from packqvit_delegate import Program


def write_case(
    folder: Path, name: str, program: Program, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
) -> None:
    """`<name>.pte`, `<name>.in<i>.bin` and `<name>.out<i>.bin`: raw little-endian tensors."""
    program.save(folder / f"{name}.pte")
    for kind, tensors in (("in", inputs), ("out", outputs)):
        for i, tensor in enumerate(tensors):
            (folder / f"{name}.{kind}{i}.bin").write_bytes(tensor.contiguous().numpy().tobytes())
