"""Static 8-bit quantisation of a model in ONNX, which ONNX Runtime and OpenVINO both run in integers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

INPUT = "image"


class _Images(CalibrationDataReader):
    def __init__(self, images: Tensor) -> None:
        self._images: Iterator[Tensor] = iter(images.split(1))

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image.numpy()}


def write_int8_model(model: nn.Module, images: Tensor, path: Path, *, symmetric: bool) -> None:
    """Quantises matrix products and convolutions, weights signed and per channel.

    Args:
        model: Takes one image.
        images: To calibrate with, along axis 0.
        path: Of the .onnx file.
        symmetric: Signed activations without zero points, which OpenVINO runs faster; otherwise unsigned ones with,
            which ONNX Runtime runs faster.
    """
    with tempfile.TemporaryDirectory() as folder:
        exported, prepared = Path(folder, "float.onnx"), Path(folder, "prepared.onnx")
        torch.onnx.export(
            model, (images[:1],), exported, input_names=[INPUT], dynamo=True, external_data=False, verbose=False
        )
        quant_pre_process(exported, prepared)
        quantize_static(
            prepared,
            path,
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],  # others cost both engines time
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric},
        )
