"""Exports one model, runs the program, and records everything that matters."""

from __future__ import annotations

from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import nn

from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig, export, runtime
from packqvit_delegate.answers import tensors_of
from packqvit_delegate.embeddings import signal_to_noise
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.outside import grouped

from ..contestants import PRESETS, with_plain_attention
from ..xnnpack_programs import write_dynamic
from .entry import NORMALIZATION, Entry
from .record import Record

_NO_ERROR = 200.0
"""dB of outputs without any."""
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
        real = [tensors_of(model(test)) for test in entry.tests]
        eager = [tensors_of(program.integer_module(test)) for test in entry.tests]
        found = [[output.clone() for output in tensors_of(loaded.run(test))] for test in entry.tests]
    record.is_exact = all(
        torch.equal(*pair) for both in zip(eager, found, strict=True) for pair in zip(*both, strict=True)
    )
    outputs = zip(zip(*real, strict=True), zip(*found, strict=True), strict=True)
    levels = (signal_to_noise(torch.cat(given), torch.cat(expected)) for expected, given in outputs)
    record.decibels = [round(min(level, _NO_ERROR), 1) for level in levels]


def write_peer(entry: Entry, path: Path) -> None:
    """Writes the model as XNNPACK int8 dynamic, with its attention written out, which is that program's better form.

    Raises:
        Exception: There is no such program, or it does not run.
    """
    write_dynamic(with_plain_attention(entry.build()), entry.calibration, path)
    runtime.load(path).run(entry.tests[0])
