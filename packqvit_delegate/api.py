"""From a float model to a program, in one call or step by step."""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from executorch.exir import ExecutorchProgramManager, to_edge_transform_and_lower
from executorch.exir.backend.partitioner import Partitioner
from torch._export.verifier import SpecViolationError
from torch.fx import GraphModule

from .arguments import checked
from .calibration import CalibrationMethod
from .calibration.batches import Batch, Batches, check_example_inputs
from .config import Bits, QuantizationConfig
from .entry import FloatModel
from .errors import PackQViTError
from .files import replacing
from .inputs import plain
from .kernels_at_hand import check_kernels, without_operator
from .memory import executorch_config
from .metadata import Metadata
from .methods import FORWARD, for_images, method_names, of_images
from .outside import log_lines
from .partitioner import PackQViTPartitioner
from .passes import give_codes, rank_classes, take_bytes
from .passes.give_codes import OUTPUT_GRIDS
from .preparation import OutputType, Pair, make_pair
from .progress import Progress, silent
from .release import forget_shapes, released
from .report import DelegationReport, Source, make_report
from .sensitivity.report import measure
from .tuning import TuningMethod, tune

logger = logging.getLogger(__name__)

ByteLayout = Literal["hwc", "chw"]

_LOSSES = "packqvit_losses"
"""In the meta of an integer graph: how far its operators are from the float model, where that was measured."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A quantised model, ready for ExecuTorch.

    Attributes:
        program: ExecuTorch's program manager.
        integer_module: The integer graph as an eager module: same inputs, the very bits of the delegate.
        report: What is in the delegate.
        methods: The integer graph of each method by its name, `forward` first; there are others with `batch_sizes`.
    """

    program: ExecutorchProgramManager
    integer_module: GraphModule
    report: DelegationReport
    methods: Mapping[str, GraphModule]

    @property
    def buffer(self) -> bytes:
        """The .pte."""
        return bytes(self.program.buffer)

    @checked
    def save(self, path: str | Path) -> None:
        """Writes the .pte; a file of this name is replaced when the new one is complete.

        Raises:
            PackQViTError: The file cannot be written.
        """
        with replacing(path) as partial, partial.open("wb") as file:
            self.program.write_to_file(file)


@checked
def export(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    *,
    bits: Bits = 4,
    activation_bits: Bits | None = None,
    config: QuantizationConfig | None = None,
    method: CalibrationMethod | None = None,
    tuning: TuningMethod | None = None,
    tuning_images: torch.Tensor | None = None,
    input_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    byte_input: ByteLayout | None = None,
    top_k: int | None = None,
    output: OutputType = "float",
    partitioners: Sequence[Partitioner] = (),
    metadata: Metadata | None = None,
    batch_sizes: Sequence[int] | None = None,
    compared: Iterable[Batch] | None = None,
    progress: Progress | None = None,
) -> Program:
    """Quantises a Vision Transformer by calibration and lowers it into one integer delegate call.

    Args:
        model: Takes float images [B, C, H, W], returns logits or features. A module, an ExportedProgram or its
            `.module()`, of any floating-point type; computed in float32. It stays as it is.
        example_inputs: Fix the shapes of the program, which takes contiguous float32 whatever these are.
        calibration: Batches of inputs; any number of images along axis 0. A hundred images serve well; with 4-bit
            weights five hundred serve better (docs/accuracy.md).
        bits: Of the weights: 4 or 8.
        activation_bits: 4 or 8; None: as `bits`.
        config: All choices; replaces `bits` and `activation_bits`.
        method: How weights are rounded; None: CalibrationMethod().
        tuning: Trains the calibrated model to answer like the float model, without labels; None: it is left as it is.
        tuning_images: float32 [N, C, H, W], some hundreds, to train on; None: those of `calibration`.
        input_normalization: (mean, std) per channel when inputs are normalised pixels; see QuantizationConfig. None: as
            `metadata.preprocessing` says.
        byte_input: The program takes RGB bytes, uint8 [B, H, W, 3] ("hwc") or [B, 3, H, W] ("chw"), and gives the bits
            that it gives for the normalised image. Needs `input_normalization`; `model`, `example_inputs` and
            `calibration` stay float.
        top_k: The program gives the best classes, int32 [B, top_k], and their logits, float32 [B, top_k], best first,
            instead of all logits.
        output: "int8": the program gives the codes of each output, on a grid of its own, instead of float values. Those
            of output i stand for `scale * (code - zero_point)` with the numbers that the program's constant methods
            `output_scale_<i>` and `output_zero_point_<i>` give; `runtime.Model.output_grids()` reads them.
        partitioners: Of other backends, in the order of preference, e.g. [XnnpackPartitioner()]: they get what stays
            in float.
        metadata: What the program says of itself, e.g. `loaded.metadata` of `models.load`: how a picture becomes its
            input, names of its classes. runtime.load, `packqvit run` and others then ask for nothing. None: nothing.
        batch_sizes: Numbers of images that the program takes, each by a method of its own: `forward` the first one,
            `forward_<n>` the others, e.g. `forward` and `forward_4` for (1, 4). They share one calibration and, in the
            file, the weights. None: `forward` alone, as many as `example_inputs` have.
        compared: Images on which every operator is compared with the float model's, for the page that
            `program.report.save` writes; eight tell enough. None: it has no errors of operators.
        progress: Wraps long loops: progress(iterable, description, length).

    Returns:
        The program, its eager integer twin, and a report.

    Raises:
        PackQViTError: Unsupported widths, model, calibration data or weights; the message names what to change.
    """
    config = config or QuantizationConfig.from_bits(bits, activation_bits)
    config = normalized(config, input_normalization, metadata)
    check_ends(config, byte_input, top_k, output)
    check_metadata(metadata, example_inputs)
    if batch_sizes is not None:
        method_names(batch_sizes)
    with released(model):
        integer_module = quantize(
            model,
            example_inputs,
            calibration,
            config,
            method=method,
            tuning=tuning,
            tuning_images=tuning_images,
            progress=progress,
            top_k=top_k,
            output=output,
            has_fallback=bool(partitioners),
            compared=compared,
        )
        for _ in (progress or silent)(range(1), "lowering", 1):
            program = finish(
                integer_module,
                example_inputs,
                config,
                byte_input,
                top_k,
                output,
                partitioners,
                metadata,
                batch_sizes,
            )
        return program


@checked
def prepare(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    config: QuantizationConfig | None = None,
    *,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
    output: OutputType = "float",
) -> Pair:
    """The first step of `export`: the calibrated graph, with observers whose grids are decided, beside the float one.

    Then `pair.to_integer()` is what `quantize` gives, and `lower` what `export` gives, to the bit. In between the
    graphs can be looked at, or `pair.prepared` be trained (packqvit_delegate.tuning.tune).

    Args:
        model: As for `export`.
        example_inputs: As for `export`.
        calibration: As for `export`.
        config: All choices; None: the preset `w4a4`, as for `export`.
        method: As for `export`.
        progress: As for `export`.
        output: As for `export`; `finish` has to be told the same.

    Raises:
        PackQViTError: As `export`.
    """
    batches = Batches(calibration, example_inputs)
    config = config or QuantizationConfig()
    with released(model):
        return make_pair(model, example_inputs, batches, config, method, progress, output=output)


@checked
def finish(
    integer_module: GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    config: QuantizationConfig,
    byte_input: ByteLayout | None = None,
    top_k: int | None = None,
    output: OutputType = "float",
    partitioners: Sequence[Partitioner] = (),
    metadata: Metadata | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Program:
    """The end of `export`: from the integer graph to a program with the wanted input and output.

    Args:
        integer_module: Result of `quantize` or of passes.lower_to_integer; changed in place.
        example_inputs: As for `export`.
        config: What it was quantised with.
        byte_input: As for `export`.
        top_k: As for `export`.
        output: As for `export`; "int8" needs an integer graph of `quantize(..., output="int8")`.
        partitioners: As for `export`.
        metadata: As for `export`.
        batch_sizes: As for `export`.

    Raises:
        PackQViTError: `byte_input`, `top_k`, `output` or `batch_sizes` cannot be had, or `metadata` tells of another
            program.
    """
    check_ends(config, byte_input, top_k, output)
    check_metadata(metadata, example_inputs)
    if metadata is not None:
        metadata = dataclasses.replace(
            metadata,
            weight_bits=config.weight_bits,
            activation_bits=config.activation_bits,
            top_k=top_k,
            layout=byte_input or ("chw" if example_inputs[0].ndim == 4 else None),
            product_version=None,
        )
    modules, inputs = {FORWARD: integer_module}, {FORWARD: example_inputs}
    if batch_sizes is not None:
        sizes = method_names(batch_sizes)
        modules = {name: for_images(integer_module, size) for name, size in sizes.items()}
        inputs = {name: of_images(example_inputs, size) for name, size in sizes.items()}
    for name, module in modules.items():
        inputs[name] = _give_ends(module, inputs[name], config, byte_input, top_k, output)
    _check_class_names(modules[FORWARD], metadata)
    return _lower(modules, inputs, partitioners, metadata)


def _give_ends(
    integer_module: GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    config: QuantizationConfig,
    byte_input: ByteLayout | None,
    top_k: int | None,
    output: OutputType,
) -> tuple[torch.Tensor, ...]:
    """Gives an integer graph, in place, the wanted input and output; returns example inputs for it."""
    if byte_input is not None:
        assert config.input_normalization is not None
        take_bytes(integer_module, *config.input_normalization, channels_last=byte_input == "hwc")
        batch, channels, height, width = example_inputs[0].shape
        shape = (batch, height, width, channels) if byte_input == "hwc" else (batch, channels, height, width)
        example_inputs = (torch.zeros(shape, dtype=torch.uint8),)
    if top_k is not None:
        rank_classes(integer_module, top_k)
    if output == "int8":
        give_codes(integer_module)
    return example_inputs


def check_ends(config: QuantizationConfig, byte_input: str | None, top_k: int | None, output: str = "float") -> None:
    """Refuses ends that a program of this configuration cannot have.

    Raises:
        PackQViTError: Bytes have no meaning, there are no best classes, or their scores would have to be codes.
    """
    if top_k is not None and output != "float":
        raise PackQViTError('top_k gives classes and their scores in float: leave it out, or output="int8"')
    if byte_input is not None and config.input_normalization is None:
        raise PackQViTError(
            "byte_input needs input_normalization=(mean, std): without it nobody knows which number a byte stands for"
        )
    if top_k is not None and top_k < 1:
        raise PackQViTError(f"top_k is {top_k}, but must be at least 1")


def check_metadata(metadata: Metadata | None, example_inputs: tuple[torch.Tensor, ...]) -> None:
    """Refuses metadata of another program.

    Raises:
        PackQViTError: Its preprocessing gives images of another size than the program takes.
    """
    if metadata is None or metadata.preprocessing is None or not example_inputs:
        return
    size, shape = metadata.preprocessing.size, tuple(example_inputs[0].shape)
    if len(shape) != 4 or shape[1:] != (3, size, size):
        raise PackQViTError(
            f"metadata.preprocessing gives images of [B, 3, {size}, {size}], but the example input is {list(shape)}: "
            "give both the same size, or leave the preprocessing out"
        )


def normalized(
    config: QuantizationConfig,
    input_normalization: tuple[Sequence[float], Sequence[float]] | None,
    metadata: Metadata | None,
) -> QuantizationConfig:
    """The configuration with the normalisation that is said in one of three places.

    Raises:
        PackQViTError: Two of them contradict each other.
    """
    pixels = metadata.preprocessing if metadata is not None else None
    given = config.input_normalization if input_normalization is None else input_normalization
    given = (pixels.mean, pixels.std) if given is None and pixels is not None else given
    if given is None:
        return config
    mean, std = (tuple(float(v) for v in values) for values in given)
    if pixels is not None and (mean, std) != (tuple(map(float, pixels.mean)), tuple(map(float, pixels.std))):
        raise PackQViTError(
            f"metadata.preprocessing normalises with mean {tuple(pixels.mean)} and std {tuple(pixels.std)}, but "
            f"input_normalization is {(mean, std)}: give one of them"
        )
    return dataclasses.replace(config, input_normalization=(mean, std))


def _check_class_names(integer_module: GraphModule, metadata: Metadata | None) -> None:
    """Refuses names of more or fewer classes than there are, where the graph tells how many."""
    if metadata is None or metadata.class_names is None or metadata.top_k is not None:
        return
    value = integer_module.graph.find_nodes(op="output")[0].all_input_nodes[0].meta.get("val")
    if not isinstance(value, torch.Tensor):
        return
    if value.ndim == 2 and value.shape[1] != len(metadata.class_names):
        raise PackQViTError(
            f"metadata has {len(metadata.class_names)} class names, but the model {value.shape[1]} classes: name each, "
            "in the order of the model's outputs"
        )


@checked
def quantize(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    config: QuantizationConfig,
    *,
    method: CalibrationMethod | None = None,
    tuning: TuningMethod | None = None,
    tuning_images: torch.Tensor | None = None,
    progress: Progress | None = None,
    top_k: int | None = None,
    output: OutputType = "float",
    has_fallback: bool = False,
    compared: Iterable[Batch] | None = None,
) -> GraphModule:
    """The first half of `export`: from the float model to the eager integer graph.

    `top_k` changes nothing yet: what `finish` would refuse is refused ahead of the calibration. With `output="int8"`
    the outputs have grids of 8 bits, and are dequantised until `finish` leaves that out. `has_fallback` says that
    `lower` or `finish` will get `partitioners` (passes.lower_to_integer). `compared` as for `export`.

    Raises:
        PackQViTError: As `export`.
    """
    batches = Batches(calibration, example_inputs)
    seen = None if compared is None else Batches(compared, example_inputs)
    images = torch.empty(0)
    if tuning is not None:
        images = (batches if tuning_images is None else Batches(tuning_images, example_inputs)).joined()
        tuning.held_out_of(len(images))
    with released(model):
        pair = make_pair(model, example_inputs, batches, config, method, progress, top_k, output)
        if tuning is not None:
            result = tune(pair.prepared, pair.reference, images, batches.size, tuning, progress)
            logger.info("tuning: loss %.4f before, %.4f after %d steps", result.before, result.after, result.steps)
        integer_module = pair.to_integer(has_fallback=has_fallback)
        if seen is not None:
            integer_module.meta[_LOSSES] = measure(pair.reference, integer_module, seen, progress)
        del pair  # its graphs go
        return integer_module


@checked
def lower(
    integer_module: GraphModule,
    example_inputs: tuple[torch.Tensor, ...],
    partitioners: Sequence[Partitioner] = (),
    metadata: Metadata | None = None,
) -> Program:
    """The second half of `export`: from the integer graph to the program.

    Args:
        integer_module: Result of `quantize` or of passes.lower_to_integer.
        example_inputs: As for `export`.
        partitioners: As for `export`.
        metadata: Written as it is; None: the program says nothing of itself.
    """
    check_example_inputs(example_inputs)
    return _lower({FORWARD: integer_module}, {FORWARD: example_inputs}, partitioners, metadata)


def _lower(
    modules: Mapping[str, GraphModule],
    inputs: Mapping[str, tuple[torch.Tensor, ...]],
    partitioners: Sequence[Partitioner],
    metadata: Metadata | None,
) -> Program:
    """One program with a method for each integer graph. Constants of the same content are in it once."""
    first = modules[FORWARD]
    with released(first):
        exported = {name: torch.export.export(module, plain(inputs[name])) for name, module in modules.items()}
        try:
            edge = to_edge_transform_and_lower(
                exported,
                partitioner=[PackQViTPartitioner(partitioners), *partitioners],
                constant_methods={**_output_grids(first), **(metadata.constant_methods() if metadata else {})},
            )
        except SpecViolationError as error:
            raise without_operator(modules.values(), error) from error
        report = make_report(edge)
        for line in log_lines(report.outside):
            logger.warning("%s", line)
        manager = edge.to_executorch(executorch_config(partitioners))
        check_kernels(manager, report.outside)
        losses, now = first.meta.get(_LOSSES), datetime.datetime.now().astimezone()
        source = Source(first, manager, metadata or Metadata(), losses, now)
        program = Program(manager, first, dataclasses.replace(report, source=source), modules)
        for one in exported.values():
            forget_shapes(one.graph)
        del exported, edge
        return program


def _output_grids(integer_module: GraphModule) -> dict[str, float | int]:
    """The constant methods that tell what the codes of each output stand for."""
    found: dict[str, float | int] = {}
    for index, grid in enumerate(integer_module.meta.get(OUTPUT_GRIDS, ())):
        found |= {f"output_scale_{index}": grid.scale, f"output_zero_point_{index}": grid.zero_point}
    return found
