"""ExecuTorch's XNNPACK programs: float, static and dynamic 8-bit, and 4-bit weights with dynamic activations."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from torch import Tensor, nn
from torch.fx import GraphModule

from packqvit_delegate.passes.fold_constants import fold_constants

GROUP = 32
"""Input channels that share a scale of 4-bit weights: ExecuTorch's export recipe for 8da4w has 32, too."""


def write_fp32(model: nn.Module, images: Tensor, path: Path) -> None:
    """Writes the float model.

    Args:
        model: Takes images; attention written out, else XNNPACK finds less of it.
        images: float32 [n, 3, S, S]; to calibrate with, where a program is calibrated. The program takes one.
        path: Of the .pte.
    """
    _lower(_folded(model, images), images, path)


def write_static(model: nn.Module, images: Tensor, path: Path) -> None:
    """All that XNNPACKQuantizer finds, residual additions included, on ranges of the calibration images."""
    _write_int8(model, images, path, is_dynamic=False)


def write_dynamic(model: nn.Module, images: Tensor, path: Path) -> None:
    """Linear layers; the ranges of their activations are taken anew in each run."""
    _write_int8(model, images[:1], path, is_dynamic=True)


def _write_int8(model: nn.Module, images: Tensor, path: Path, *, is_dynamic: bool) -> None:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic)
    prepared = prepare_pt2e(_folded(model, images), XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for image in images.split(1):
            prepared(image)
    _lower(convert_pt2e(prepared), images, path)


def write_8da4w(model: nn.Module, images: Tensor, path: Path) -> None:
    """Linear layers: 4-bit weights in groups, to nearest; activations as in `write_dynamic`.

    Raises:
        ValueError: No linear layer has input channels in whole groups.
    """
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
    from torchao.quantization.granularity import PerGroup
    from torchao.utils import unwrap_tensor_subclass

    def fits(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and module.in_features % GROUP == 0

    if not any(fits(module, name) for name, module in model.named_modules()):
        raise ValueError(f"no linear layer has a multiple of {GROUP} input channels")
    model = copy.deepcopy(model)
    config = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4,  # type: ignore[attr-defined]
        weight_granularity=PerGroup(GROUP),
    )
    quantize_(model, config, fits)
    unwrap_tensor_subclass(model)
    _lower(model, images, path)


def _folded(model: nn.Module, images: Tensor) -> GraphModule:
    """The float model, with everything that depends on weights alone computed once.

    Otherwise it is computed in each run, outside of XNNPACK: 10 of TinyViT's 28 ms gather biases of positions; and a
    linear layer of a constant, as the queries of SigLIP's pooling, has no dynamically quantised program at all.
    """
    return fold_constants(torch.export.export(model, (images[:1],)).module())


def _lower(model: nn.Module, images: Tensor, path: Path) -> None:
    from executorch.exir import to_edge_transform_and_lower

    with torch.no_grad():
        exported = torch.export.export(model, (images[:1],))
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    path.write_bytes(program.buffer)
