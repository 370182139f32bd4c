"""8-bit ONNX models by ONNX Runtime's own tools, which OpenVINO runs in integers, too."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

INPUT = "image"


def write_static_unsigned(model: nn.Module, images: Tensor, path: Path) -> None:
    """Unsigned activations with zero points, which ONNX Runtime runs faster than signed ones.

    Args:
        model: Takes one image.
        images: To calibrate with, float32 [n, 3, S, S]; ranges are their extremes.
        path: Of the .onnx file.
    """
    _write_static(model, images, path, symmetric=False)


def write_static_signed(model: nn.Module, images: Tensor, path: Path) -> None:
    """Signed activations without zero points, which OpenVINO runs faster than unsigned ones."""
    _write_static(model, images, path, symmetric=True)


def _write_static(model: nn.Module, images: Tensor, path: Path, *, symmetric: bool) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self._images: Iterator[Tensor] = iter(images.split(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self._images, None)
            return None if image is None else {INPUT: image.numpy()}

    with prepared_model(model, images) as prepared:
        quantize_static(
            prepared,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],  # others cost both engines time
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric},
        )


def write_dynamic(model: nn.Module, images: Tensor, path: Path) -> None:
    """Matrix products, weights per channel; the range of a whole tensor of activations is taken anew in each run.

    ONNX Runtime's documentation recommends this for transformers. Attention's products are included, by which it is
    faster and no less accurate.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with prepared_model(model, images) as prepared:
        quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": False},
        )


@contextmanager
def exported_model(model: nn.Module, images: Tensor) -> Iterator[Path]:
    """The float model in ONNX, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "float.onnx")
        torch.onnx.export(
            model, (images[:1],), path, input_names=[INPUT], dynamo=True, external_data=False, verbose=False
        )
        yield path


@contextmanager
def prepared_model(model: nn.Module, images: Tensor) -> Iterator[Path]:
    """The same, shapes inferred and optimised, as ONNX Runtime asks for ahead of its quantisers."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with exported_model(model, images) as exported:
        path = exported.with_name("prepared.onnx")
        quant_pre_process(exported, path)
        yield path
