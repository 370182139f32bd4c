"""Exports one model, runs the program, and records everything that matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import Tensor, nn

from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig, export, runtime
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.outside import grouped

from ..contestants import PRESETS, with_plain_attention
from ..xnnpack_programs import write_dynamic
from .entry import NORMALIZATION, Entry
from .record import Record

METHOD = CalibrationMethod(
    rounding="nearest", bias_correction=False, compensation=False, clipping=False, token_importance=False
)
"""The cheapest: with random weights, there is nothing to gain."""


def try_out(entry: Entry, preset: str, folder: Path) -> Record:
    """Exports and runs a model; the program stays in the folder.

    No exception of export or runtime gets out: it is what a trial is for.
    """
    record = Record(entry.name, preset)
    try:
        model = entry.build()
        program = _export(model, entry, preset)
        path = folder / f"{record.stem}.pte"
        program.save(path)
        _describe(record, program)
        _run(record, program, model, entry, path)
    except PackQViTError as error:
        record.error, record.is_refused = str(error), True
    except Exception as error:
        record.error = f"{type(error).__name__}: {error}"
    return record


def _export(model: nn.Module, entry: Entry, preset: str) -> Program:
    calibration = entry.calibration
    return export(
        model,
        (calibration[: entry.batch].clone(),),
        calibration,
        config=QuantizationConfig.from_bits(*PRESETS[preset]),
        method=METHOD,
        input_normalization=NORMALIZATION if entry.takes_pictures else None,
        partitioners=[XnnpackPartitioner()],
    )


def _describe(record: Record, program: Program) -> None:
    report = program.report
    floats = [*report.outside, *(operator for fallback in report.fallbacks for operator in fallback.operators)]
    record.delegates, record.operators = report.delegates, report.operators
    record.fallbacks = sum(fallback.delegates for fallback in report.fallbacks)
    record.floats = len(floats)
    record.reasons = [group.render() for group in grouped(floats)]
    record.size = len(program.buffer)


def _run(record: Record, program: Program, model: nn.Module, entry: Entry, path: Path) -> None:
    loaded = runtime.load(path)
    with torch.no_grad():
        real = [_flat(model(test)) for test in entry.tests]
        eager = [_flat(program.integer_module(test)) for test in entry.tests]
        found = [[output.clone() for output in loaded.run(test)] for test in entry.tests]
    record.is_exact = all(
        torch.equal(*pair) for both in zip(eager, found, strict=True) for pair in zip(*both, strict=True)
    )
    outputs = zip(zip(*real, strict=True), zip(*found, strict=True), strict=True)
    record.decibels = [_signal_to_noise(torch.cat(expected), torch.cat(given)) for expected, given in outputs]


def _flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs
    return [tensor for value in values for tensor in _flat(value)]


def _signal_to_noise(real: Tensor, found: Tensor) -> float:
    """In dB; 200 where there is no error."""
    signal, error = real.double().square().sum(), (real.double() - found.double()).square().sum()
    return round(float(10 * torch.log10(signal / error)), 1) if error else 200.0


def write_peer(entry: Entry, path: Path) -> None:
    """Writes the model as XNNPACK int8 dynamic, with its attention written out, which is that program's better form.

    Raises:
        Exception: There is no such program, or it does not run.
    """
    write_dynamic(with_plain_attention(entry.build()), entry.calibration, path)
    runtime.load(path).run(entry.tests[0])
