"""What users get wrong: each gives an error that says what, at the earliest stage that can see it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

import packqvit_delegate
from models import images, plain_model
from packqvit_delegate import (
    CalibrationError,
    LayerOverride,
    PackQViTError,
    QuantizationConfig,
    UnsupportedModelError,
    export,
    runtime,
)
from programs import micro_program

BATCH = images(2)
EXAMPLE = (BATCH[:1],)


@pytest.mark.parametrize("bits", [0, 2, 3, 16, 4.5])
def test_wrong_bits(bits: int) -> None:
    with pytest.raises(PackQViTError, match="4 and 8"):
        export(plain_model(), EXAMPLE, BATCH, bits=bits)


def test_eight_bit_weights_with_four_bit_activations() -> None:
    with pytest.raises(PackQViTError, match="gain nothing"):
        export(plain_model(), EXAMPLE, BATCH, bits=8, activation_bits=4)


@pytest.mark.parametrize(
    "fields",
    [
        {"residual": "int4"},
        {"probabilities": "sqrt"},
        {"max_channel_shift": 8},
        {"weight_bits": 5},
        {"input_normalization": ((0.5,), (0.0,))},
        {"input_normalization": ((0.5, 0.5), (0.5,))},
    ],
)
def test_wrong_configuration(fields: dict[str, object]) -> None:
    with pytest.raises(PackQViTError, match=next(iter(fields))):
        QuantizationConfig(**fields)


def test_wrong_override() -> None:
    with pytest.raises(PackQViTError, match="activation_bits"):
        LayerOverride(activation_bits=6)


def test_unknown_preset() -> None:
    with pytest.raises(PackQViTError, match="w4a4"):
        QuantizationConfig.preset("w2a2")


def test_no_calibration_images() -> None:
    with pytest.raises(CalibrationError, match="0 calibration image"):
        export(plain_model(), EXAMPLE, [])


def test_fewer_calibration_images_than_the_batch() -> None:
    with pytest.raises(CalibrationError, match="takes 2 at once"):
        export(plain_model(), (BATCH,), BATCH[:1])


def test_calibration_images_of_another_size() -> None:
    with pytest.raises(CalibrationError, match="behind its first axis"):
        export(plain_model(), EXAMPLE, images(2, 40))


def test_calibration_images_with_nan() -> None:
    bad = BATCH.clone()
    bad[1, 0, 0, 0] = math.nan
    with pytest.raises(CalibrationError, match="NaN"):
        export(plain_model(), EXAMPLE, bad)


def test_nan_weights_are_named() -> None:
    model = plain_model()
    name, parameter = list(model.named_parameters())[5]
    parameter.data.view(-1)[0] = math.nan
    with pytest.raises(PackQViTError, match=name):
        export(model, EXAMPLE, BATCH)


def test_normalisation_of_another_number_of_channels() -> None:
    with pytest.raises(PackQViTError, match="images of 3"):
        export(plain_model(), EXAMPLE, BATCH, input_normalization=((0.5,), (0.5,)))


def test_a_model_without_attention() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.Linear(128, 10))
    with pytest.raises(UnsupportedModelError, match="no multi-head self-attention"):
        export(model, EXAMPLE, BATCH)


def test_dynamic_shapes() -> None:
    batch = torch.export.Dim("batch", min=1, max=8)
    exported = torch.export.export(plain_model(), (BATCH,), dynamic_shapes={"x": {0: batch}})
    from packqvit_delegate.capture import check_static

    with pytest.raises(UnsupportedModelError, match="dynamic shape"):
        check_static(exported)


class DataDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0] if x.sum() > 0 else x


def test_a_model_that_cannot_be_exported() -> None:
    with pytest.raises(UnsupportedModelError, match="torch.export cannot capture DataDependent"):
        export(DataDependent(), EXAMPLE, BATCH)


class Sine(nn.Module):
    """A ViT with an operator behind its head that no table can stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(self.vit(x), 1)


def test_bytes_where_the_model_takes_floats() -> None:
    """And where nothing says what a byte stands for."""
    pixels = (BATCH * 50 + 128).clamp(0, 255).to(torch.uint8)
    words = (
        r"example_inputs\[0\] is a tensor uint8 .*, and .* does not take whole numbers: give .* in float32, here and"
    )
    with pytest.raises(PackQViTError, match=words):
        export(plain_model(), (pixels[:1],), pixels)


class TakesBytes(nn.Module):
    """A ViT that takes bytes by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vit(pixels / 128.0 - 1)


def test_bytes_that_the_model_takes_itself() -> None:
    pixels = (BATCH * 50 + 128).clamp(0, 255).to(torch.uint8)
    program = export(TakesBytes(), (pixels[:1],), pixels, bits=8)
    (actual,) = runtime.load(program.buffer).run(pixels[:1])
    torch.testing.assert_close(actual, program.integer_module(pixels[:1]))


def test_an_unsupported_operator_stays_outside_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    program = export(Sine(), EXAMPLE, BATCH, bits=8)
    assert program.report.delegates == 1
    assert [outside.operator for outside in program.report.outside] == ["aten::cumsum"]
    assert "cumsum" in caplog.text and program.report.outside[0].reason
    (actual,) = runtime.load(program.buffer).run(BATCH[:1])
    torch.testing.assert_close(actual, program.integer_module(BATCH[:1]))


def test_running_on_another_shape() -> None:
    model = runtime.load(micro_program("W8A8").buffer)
    with pytest.raises(PackQViTError, match=r"does not run on .*\(1, 3, 40, 40\)"):
        model.run(images(1, 40))


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pte"):
        runtime.load("nowhere.pte")


def test_a_missing_method() -> None:
    with pytest.raises(PackQViTError, match="backward"):
        runtime.load(micro_program("W8A8").buffer, method="backward")


def test_the_package_has_a_version() -> None:
    assert packqvit_delegate.__version__[0].isdigit()


class Followed(nn.Module):
    """A model with a function of its logits behind it."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.vit, self.function = plain_model(), function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.vit(x))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda y: y.sort(1)[0], r"no kernel for aten::sort\.values.*would not load.*it ranks"),
        (torch.lgamma, r"no operator aten\.lgamma \(in lgamma\)"),
    ],
    ids=["kernel", "operator"],
)
def test_programs_that_would_not_load_are_refused(function: Callable, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        export(Followed(function), EXAMPLE, BATCH)
