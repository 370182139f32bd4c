"""8-bit programs by NNCF with its preset for transformers: SmoothQuant, bias correction, symmetric weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .onnx_programs import INPUT, exported_model


def write_openvino(model: nn.Module, images: Tensor, path: Path) -> None:
    """OpenVINO's own format.

    Args:
        model: Takes one image.
        images: To calibrate with, float32 [n, 3, S, S].
        path: Of the .xml file; the weights go beside it.
    """
    import openvino

    with exported_model(model, images) as exported:
        openvino.save_model(_quantized(openvino.convert_model(exported), images), path)


def write_onnx(model: nn.Module, images: Tensor, path: Path) -> None:
    """ONNX, for ONNX Runtime."""
    import onnx

    with exported_model(model, images) as exported:
        onnx.save(_quantized(onnx.load(exported), images), path)


def _quantized(model: Any, images: Tensor) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset(list(images.split(1)), lambda image: {INPUT: image.numpy()})
    return nncf.quantize(model, data, subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER)
