"""From a float model to a program, in one call or step by step."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from executorch.exir import ExecutorchProgramManager, to_edge_transform_and_lower
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from .calibration import CalibrationMethod, calibrate
from .config import QuantizationConfig
from .errors import CalibrationError, PackQViTError, UnsupportedModelError
from .partitioner import PackQViTPartitioner
from .passes import (
    canonicalize,
    equalize_layer_norm,
    equalize_values,
    fold_input_normalization,
    lower_to_integer,
    rank_classes,
    rotate_residual,
    rotate_values,
    split_outlier_channels,
    take_bytes,
)
from .progress import Progress, silent
from .quantizer import PackQViTQuantizer
from .report import DelegationReport, make_report
from .tuning import TuningMethod, tune

logger = logging.getLogger(__name__)

Batch = torch.Tensor | tuple[torch.Tensor, ...]
ByteLayout = Literal["hwc", "chw"]


@dataclasses.dataclass(frozen=True)
class Program:
    """A quantised model, ready for ExecuTorch.

    Attributes:
        program: ExecuTorch's program manager.
        integer_module: The integer graph as an eager module: same inputs, the very bits of the delegate.
        report: What is in the delegate.
    """

    program: ExecutorchProgramManager
    integer_module: GraphModule
    report: DelegationReport

    @property
    def buffer(self) -> bytes:
        """The .pte."""
        return bytes(self.program.buffer)

    def save(self, path: str | Path) -> None:
        """Writes the .pte."""
        with open(path, "wb") as file:
            self.program.write_to_file(file)


def export(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    *,
    bits: int = 4,
    activation_bits: int | None = None,
    config: QuantizationConfig | None = None,
    method: CalibrationMethod | None = None,
    tuning: TuningMethod | None = None,
    tuning_images: torch.Tensor | None = None,
    input_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    byte_input: ByteLayout | None = None,
    top_k: int | None = None,
    progress: Progress | None = None,
) -> Program:
    """Quantises a Vision Transformer by calibration and lowers it into one integer delegate call.

    Args:
        model: Takes float images [B, C, H, W], returns logits or features.
        example_inputs: Fix the shapes of the program.
        calibration: Batches of inputs; any number of images along axis 0. A hundred images serve well.
        bits: Of the weights: 4 or 8.
        activation_bits: 4 or 8; None: as `bits`.
        config: All choices; replaces `bits` and `activation_bits`.
        method: How weights are rounded; None: CalibrationMethod().
        tuning: Trains the calibrated model to answer like the float model, without labels; None: it is left as it is.
        tuning_images: float32 [N, C, H, W], some hundreds, to train on; None: those of `calibration`.
        input_normalization: (mean, std) per channel when inputs are normalised pixels; see QuantizationConfig.
        byte_input: The program takes RGB bytes, uint8 [B, H, W, 3] ("hwc") or [B, 3, H, W] ("chw"), and gives the bits
            that it gives for the normalised image. Needs `input_normalization`; `model`, `example_inputs` and
            `calibration` stay float.
        top_k: The program gives the best classes, int32 [B, top_k], and their logits, float32 [B, top_k], best first,
            instead of all logits.
        progress: Wraps long loops: progress(iterable, description, length).

    Returns:
        The program, its eager integer twin, and a report.

    Raises:
        PackQViTError: Unsupported widths, model, calibration data or weights; the message names what to change.
    """
    config = config or QuantizationConfig.from_bits(bits, activation_bits)
    if input_normalization is not None:
        mean, std = (tuple(float(v) for v in values) for values in input_normalization)
        config = dataclasses.replace(config, input_normalization=(mean, std))
    check_ends(config, byte_input, top_k)
    integer_module = quantize(
        model,
        example_inputs,
        calibration,
        config,
        method=method,
        tuning=tuning,
        tuning_images=tuning_images,
        progress=progress,
    )
    return finish(integer_module, example_inputs, config, byte_input, top_k)


def finish(
    integer_module: GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    config: QuantizationConfig,
    byte_input: ByteLayout | None = None,
    top_k: int | None = None,
) -> Program:
    """The end of `export`: from the integer graph to a program with the wanted input and output.

    Args:
        integer_module: Result of `quantize` or of passes.lower_to_integer; changed in place.
        example_inputs: As for `export`.
        config: What it was quantised with.
        byte_input: As for `export`.
        top_k: As for `export`.

    Raises:
        PackQViTError: `byte_input` or `top_k` cannot be had.
    """
    check_ends(config, byte_input, top_k)
    if byte_input is not None:
        assert config.input_normalization is not None
        take_bytes(integer_module, *config.input_normalization, channels_last=byte_input == "hwc")
        batch, channels, height, width = example_inputs[0].shape
        shape = (batch, height, width, channels) if byte_input == "hwc" else (batch, channels, height, width)
        example_inputs = (torch.zeros(shape, dtype=torch.uint8),)
    if top_k is not None:
        rank_classes(integer_module, top_k)
    return lower(integer_module, example_inputs)


def check_ends(config: QuantizationConfig, byte_input: str | None, top_k: int | None) -> None:
    """Refuses ends that a program of this configuration cannot have.

    Raises:
        PackQViTError: They are unknown, or bytes have no meaning.
    """
    if byte_input not in (None, "hwc", "chw"):
        raise PackQViTError(f"byte_input is {byte_input!r}, but must be 'hwc', 'chw' or None")
    if byte_input is not None and config.input_normalization is None:
        raise PackQViTError(
            "byte_input needs input_normalization=(mean, std): without it nobody knows which number a byte stands for"
        )
    if top_k is not None and top_k < 1:
        raise PackQViTError(f"top_k is {top_k}, but must be at least 1")


def quantize(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    config: QuantizationConfig,
    *,
    method: CalibrationMethod | None = None,
    tuning: TuningMethod | None = None,
    tuning_images: torch.Tensor | None = None,
    progress: Progress | None = None,
) -> GraphModule:
    """The first half of `export`: from the float model to the eager integer graph.

    Raises:
        PackQViTError: As `export`.
    """
    batches = Batches(calibration, example_inputs)
    module = float_graph(model, example_inputs, batches, config, method, progress, tuned=tuning is not None)
    teacher = copy.deepcopy(module) if tuning is not None else None
    prepared = calibrated(module, batches, config, method, progress)
    if teacher is not None:
        images = batches if tuning_images is None else Batches(tuning_images, example_inputs)
        result = tune(prepared, teacher, images.joined(), batches.size, tuning, progress)
        logger.info("tuning: loss %.4f before, %.4f after %d steps", result.before, result.after, result.steps)
    return lower_to_integer(convert_pt2e(prepared))


def float_graph(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    batches: Batches,
    config: QuantizationConfig,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
    *,
    tuned: bool = False,
) -> GraphModule:
    """The canonical float graph whose weights and values get codes: the same function as the model.

    Args:
        model: As for `export`.
        example_inputs: As for `export`.
        batches: Calibration data.
        config: All choices.
        method: As for `export`.
        progress: As for `export`.
        tuned: Whether tuning follows calibration.

    Raises:
        PackQViTError: As `export`.
    """
    progress = progress or silent
    check_weights(model)
    module = canonicalize(capture(model, example_inputs))
    if config.input_normalization is not None:
        fold_input_normalization(module, config.input_normalization[1])
    quantizer = PackQViTQuantizer(config=config)
    quantizer.check(module)
    method = method or CalibrationMethod()
    if _rotates(method, config, tuned):
        rotate_values(module)
        if config.residual == "int16":  # the shifts of an int8 stream need channels that differ
            rotate_residual(module)
    if method.split_outliers:
        split_outlier_channels(module, progress(batches, "looking for outliers", len(batches)))
    module = equalize_values(module, progress(batches, "equalising values", len(batches)), quantizer.output_codes)
    seen = progress(batches, "equalising", len(batches))
    return equalize_layer_norm(module, seen, quantizer.output_codes, method.clipping)


def _rotates(method: CalibrationMethod, config: QuantizationConfig, tuned: bool) -> bool:
    if method.rotation is not None:
        return method.rotation
    return config.activation_bits < 8 or (tuned and config.weight_bits < 8)


def calibrated(
    module: GraphModule,
    batches: Batches,
    config: QuantizationConfig,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
) -> GraphModule:
    """A float graph with observers whose grids are decided, and with rounded weights; `module` is consumed.

    Raises:
        PackQViTError: As `export`.
    """
    prepared = prepare_pt2e(module, PackQViTQuantizer(config=config))
    calibrate(prepared, batches.chunks(), batches.size, method, progress or silent)
    return prepared


def lower(integer_module: GraphModule, example_inputs: tuple[torch.Tensor, ...]) -> Program:
    """The second half of `export`: from the integer graph to the program.

    Args:
        integer_module: Result of `quantize` or of passes.lower_to_integer.
        example_inputs: As for `export`.
    """
    exported = torch.export.export(integer_module, example_inputs)
    edge = to_edge_transform_and_lower(exported, partitioner=[PackQViTPartitioner()])
    report = make_report(integer_module, edge)
    for outside in report.outside:
        logger.warning("outside the delegate: %s (%s): %s", outside.operator, outside.name, outside.reason)
    return Program(edge.to_executorch(), integer_module, report)


def capture(model: nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> GraphModule:
    """torch.export of a model in evaluation mode, with static shapes.

    Raises:
        UnsupportedModelError: torch.export fails.
    """
    try:
        exported = torch.export.export(model.eval(), example_inputs)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"torch.export cannot capture {type(model).__name__}: {first_line}; make "
            "torch.export.export(model, inputs) work first"
        ) from error
    check_static(exported)
    return exported.module()


def check_static(exported: ExportedProgram) -> None:
    """Refuses dynamic shapes.

    Raises:
        UnsupportedModelError: An input has a symbolic size.
    """
    for node in exported.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, torch.Tensor) and any(not isinstance(size, int) for size in value.shape):
            raise UnsupportedModelError(
                f"input {node.name} has the dynamic shape {tuple(value.shape)}; memory is planned at export, so export "
                "one program for each shape (or one method for each, in one program)"
            )


def check_weights(model: nn.Module) -> None:
    """Refuses weights that no grid can hold.

    Raises:
        PackQViTError: A parameter or buffer holds NaN or infinity.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise PackQViTError(f"{name} holds NaN or infinite values; the checkpoint is damaged or training diverged")


CHUNK = 16
"""Images that calibration runs at once where the program takes one."""


class Batches:
    """Calibration data cut to the batch size of the program; can be run over more than once."""

    def __init__(self, calibration: Iterable[Batch], example_inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(calibration, torch.Tensor):
            calibration = [calibration]
        batches = [batch if isinstance(batch, (tuple, list)) else (batch,) for batch in calibration]
        self.size = example_inputs[0].shape[0]
        for batch in batches:
            _check_batch(tuple(batch), example_inputs)
        images = sum(batch[0].shape[0] for batch in batches)
        if images < self.size:
            raise CalibrationError(
                f"{images} calibration image(s) were given, but the program takes {self.size} at once; give a few "
                "dozen images that look like those of the application"
            )
        self._batches = [tuple(batch) for batch in batches]
        self._length = images // self.size

    def chunks(self) -> list[tuple[torch.Tensor, ...]]:
        """The same images, more of them at once where the program takes one."""
        if self.size > 1:
            return list(self)
        joined = tuple(torch.cat(tensors) for tensors in zip(*self._batches, strict=True))
        return list(zip(*(tensor.split(CHUNK) for tensor in joined), strict=True))

    def first(self, images: int) -> Batches:
        """The first so many images, or one batch where that is more."""
        example = tuple(tensor[: self.size] for tensor in next(iter(self)))
        joined = tuple(torch.cat(tensors) for tensors in zip(*self._batches, strict=True))
        return Batches([tuple(tensor[: max(images, self.size)] for tensor in joined)], example)

    def joined(self) -> torch.Tensor:
        """All images of the first input, [N, ...].

        Raises:
            PackQViTError: The model takes more than one input.
        """
        if len(self._batches[0]) != 1:
            raise PackQViTError(
                f"tuning needs a model with one input, its images; this one has {len(self._batches[0])}"
            )
        return torch.cat([batch[0] for batch in self._batches])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        left: tuple[torch.Tensor, ...] | None = None
        for batch in self._batches:
            joined = batch if left is None else tuple(torch.cat(pair) for pair in zip(left, batch, strict=True))
            whole = joined[0].shape[0] // self.size * self.size
            for first in range(0, whole, self.size):
                yield tuple(tensor[first : first + self.size] for tensor in joined)
            left = tuple(tensor[whole:] for tensor in joined)


def _check_batch(batch: tuple[torch.Tensor, ...], example_inputs: tuple[torch.Tensor, ...]) -> None:
    if len(batch) != len(example_inputs):
        raise CalibrationError(f"a calibration batch has {len(batch)} tensors, the model takes {len(example_inputs)}")
    for tensor, example in zip(batch, example_inputs, strict=True):
        if tensor.shape[1:] != example.shape[1:] or tensor.dtype != example.dtype:
            raise CalibrationError(
                f"a calibration batch has {tensor.dtype} {tuple(tensor.shape[1:])} behind its first axis, the example "
                f"input {example.dtype} {tuple(example.shape[1:])}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CalibrationError("a calibration image holds NaN or infinite values")
