"""What is quantised already is refused with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

import packqvit_delegate
from models import export, images, plain_model
from packqvit_delegate import PackQViTQuantizer, QuantizationConfig, UnsupportedModelError, qat
from packqvit_delegate.entry import float_module

X = images(2)


def prepared() -> nn.Module:
    module = prepare_pt2e(export(plain_model(), X[:1]), PackQViTQuantizer(bits=8))
    module(X[:1])
    return module


def converted() -> nn.Module:
    return convert_pt2e(prepared())


def integer() -> nn.Module:
    return packqvit_delegate.quantize(plain_model(), (X[:1],), X, QuantizationConfig.preset("w8a8"))


def dynamic() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(plain_model(), {nn.Linear}, torch.qint8)


def fake_quantized() -> nn.Module:
    model = plain_model()
    model.blocks[0].fc1.add_module("fake", torch.ao.quantization.FakeQuantize())
    return model


def torchao_int8() -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = plain_model()
    quantize_(model, Int8WeightOnlyConfig())
    return model


class Int8Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(4, 4, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.float()


class CallsQuantized(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)


@pytest.mark.parametrize(
    "build", [prepared, converted, integer, dynamic, fake_quantized, torchao_int8, Int8Linear, CallsQuantized]
)
def test_quantized_models_are_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(UnsupportedModelError, match="quantised already.*give the float model"):
        packqvit_delegate.export(build(), (X[:1],), X, bits=8)


def test_a_program_of_a_quantized_model_is_refused() -> None:
    program = torch.export.export(integer(), (X[:1],))
    with pytest.raises(UnsupportedModelError, match="it calls packqvit"):
        qat.prepare(program, (X[:1],), X)


def test_bytes_that_are_no_weights_are_no_fault() -> None:
    model = plain_model()
    model.register_buffer("mask", torch.ones(4, 4, dtype=torch.uint8))
    model.register_buffer("index", torch.zeros(4, 4, dtype=torch.int64))
    model.stub = torch.ao.quantization.QuantStub()
    assert float_module(model) is model
