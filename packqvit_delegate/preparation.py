"""From a float model to its canonical graph, and from that to a calibrated one."""

from __future__ import annotations

import copy
import dataclasses
from typing import Literal

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from .answers import mark_answers
from .arguments import checked
from .calibration import CalibrationMethod, calibrate
from .calibration.batches import Batches
from .calibration.images import check_images
from .capture import capture
from .config import QuantizationConfig
from .entry import FloatModel
from .passes import (
    canonicalize,
    equalize_layer_norm,
    equalize_values,
    fold_input_normalization,
    lower_to_integer,
    mark_outputs,
    rotate_residual,
    rotate_values,
    split_outlier_channels,
)
from .passes.graph import compiled_once
from .passes.mark_activations import mark_activations
from .passes.rank_classes import check_ranking
from .progress import Progress, silent
from .quantizer import PackQViTQuantizer

OutputType = Literal["float", "int8"]


@dataclasses.dataclass
class Pair:
    """A float graph and what calibration made of it; nodes of one kind have the same name in both.

    Attributes:
        reference: Canonical float graph, the same function as the model.
        prepared: With observers whose grids are decided, and with rounded weights.
    """

    reference: GraphModule
    prepared: GraphModule

    def to_integer(self, *, has_fallback: bool = False) -> GraphModule:
        """The integer graph; `prepared` becomes part of it and cannot be used afterwards.

        Args:
            has_fallback: As for passes.lower_to_integer.
        """
        return lower_to_integer(convert_pt2e(self.prepared), has_fallback=has_fallback)


@checked
def make_pair(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    batches: Batches,
    config: QuantizationConfig,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
    top_k: int | None = None,
    output: OutputType = "float",
) -> Pair:
    """Calibrates a model and keeps the float graph beside it.

    Args:
        model: As for `packqvit_delegate.export`.
        example_inputs: As for `export`.
        batches: Calibration data.
        config: All choices.
        method: As for `export`.
        progress: As for `export`.
        top_k: As for `export`; refused here, ahead of all work, where it cannot be had.
        output: As for `export`.

    Raises:
        PackQViTError: As `export`.
    """
    reference = float_graph(model, example_inputs, batches, config, method, progress, top_k, output)
    prepared = prepare_pt2e(_sharing_copy(reference), PackQViTQuantizer(config=config))
    calibrate(prepared, batches.chunks(), batches.size, method, progress)
    return Pair(reference, prepared)


@checked
def float_graph(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    batches: Batches,
    config: QuantizationConfig,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
    top_k: int | None = None,
    output: OutputType = "float",
) -> GraphModule:
    """The canonical float graph whose weights and values get codes: the same function as the model.

    Args:
        model: As for `export`.
        example_inputs: As for `export`.
        batches: Calibration data.
        config: All choices.
        method: As for `export`.
        progress: As for `export`.
        top_k: As for `make_pair`.
        output: As for `export`.

    Raises:
        PackQViTError: As `export`.
    """
    progress = progress or silent
    check_images(batches, config.input_normalization)
    module = capture(model, example_inputs)
    with compiled_once(module):
        return _equalized(canonicalize(module), batches, config, method or CalibrationMethod(), progress, top_k, output)


def _equalized(
    module: GraphModule,
    batches: Batches,
    config: QuantizationConfig,
    method: CalibrationMethod,
    progress: Progress,
    top_k: int | None,
    output: OutputType,
) -> GraphModule:
    """The canonical graph with what makes it easier to quantise, behind the checks that need no calibration."""
    mark_answers(module)
    if config.input_normalization is not None:
        fold_input_normalization(module, config.input_normalization[1])
    quantizer = PackQViTQuantizer(config=config)
    quantizer.check(module)
    if top_k is not None:
        check_ranking(module, top_k)
    if output == "int8":
        mark_activations(mark_outputs(module))
    if _rotates(method, config):
        rotate_values(module)
        if config.residual == "int16":  # the shifts of an int8 stream need channels that differ
            rotate_residual(module)
    if method.split_outliers:
        split_outlier_channels(module, progress(batches, "looking for outliers", len(batches)))
    module = equalize_values(module, progress(batches, "equalising values", len(batches)), quantizer.output_codes)
    seen = progress(batches, "equalising", len(batches))
    return equalize_layer_norm(module, seen, quantizer.output_codes, method.clipping)


def _sharing_copy(module: GraphModule) -> GraphModule:
    """A copy with the same tensors: what calibration changes, it replaces."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _rotates(method: CalibrationMethod, config: QuantizationConfig) -> bool:
    if method.rotation is not None:
        return method.rotation
    return min(config.weight_bits, config.activation_bits) < 8
