"""Rows of zero weights, or tiny beside their bias, export: their codes are zero or few, and their bias is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import nn

from models import images, plain_model
from packqvit_delegate import PackQViTError, PlanError, Program, QuantizationConfig, export, qat, runtime
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.quantizer.observers.weight import symmetric_scales

X, NEW = images(8), images(4, seed=5)

LAYERS = (
    "patch",
    "blocks.0.attention.q",
    "blocks.0.attention.k",
    "blocks.0.attention.v",
    "blocks.0.attention.proj",
    "blocks.0.fc1",
    "blocks.1.fc2",
    "blocks.1.attention.v",
    "head",
)


def changed(change: Callable[[nn.Module], None]) -> nn.Module:
    model = plain_model()
    with torch.no_grad():
        change(model)
    return model


def tiny_rows(model: nn.Module) -> None:
    """In every kind of linear rows of 0, of almost 0 and of a thousandth of a thousandth of the others."""
    for name in LAYERS:
        weight = model.get_submodule(name).weight
        for row, factor in ((1, 0.0), (3, 1e-12), (4, 1e-9), (6, 1e-6), (8, 1e-4)):
            weight[row] *= factor


def decibel(model: nn.Module, program: Program) -> float:
    """Of new images; the runtime gives the bits of the eager graph."""
    loaded = runtime.load(program.buffer)
    with torch.no_grad():
        real = model(NEW)
        found = torch.cat([program.integer_module(image) for image in NEW.split(1)])
        assert torch.equal(found, torch.cat([loaded.run(image)[0] for image in NEW.split(1)]))
    assert program.report.is_whole, program.report.render()
    return float(10 * torch.log10(real.square().sum() / (real - found).square().sum()))


@pytest.mark.parametrize(
    ("bits", "residual", "rounding", "floor"),
    [
        (8, "int16", "gptq", 25.0),
        (8, "int8", "nearest", 20.0),
        (4, "int16", "nearest", 11.0),
        (4, "int8", "gptq", 11.0),
    ],
)
def test_tiny_rows_everywhere(bits: int, residual: str, rounding: str, floor: float) -> None:
    config = dataclasses.replace(QuantizationConfig.from_bits(bits, 8), residual=residual)
    model = changed(tiny_rows)
    method = CalibrationMethod(rounding=rounding)  # type: ignore[arg-type]
    assert decibel(model, export(model, (X[:1],), X, config=config, method=method)) > floor


def test_a_row_of_zeros_is_a_row_of_zero_codes_and_its_bias() -> None:
    model = changed(tiny_rows)
    program = export(model, (X[:1],), X, bits=8)
    linear = next(
        node for node in program.integer_module.graph.nodes if "packqvit.linear_accumulate" in str(node.target)
    )
    weight, bias = (program.integer_module.get_buffer(str(node.target)) for node in linear.args[1:3])
    scale = program.integer_module.get_buffer(str(next(iter(linear.users)).args[1].target))
    assert int(weight[1].abs().max()) == 0 and int(weight[2].abs().max()) > 64
    assert abs(float(bias[1] * scale[1].double() - model.head.bias[1].detach())) <= 0.51 * float(scale[1])


def zero(*names: str) -> Callable[[nn.Module], None]:
    """Weights and biases of whole layers."""

    def change(model: nn.Module) -> None:
        for name in names:
            for parameter in model.get_submodule(name).parameters():
                parameter.zero_()

    return change


def no_embedding(model: nn.Module) -> None:
    """The stream begins with zeros."""
    zero("patch")(model)
    model.token.zero_()
    model.position.zero_()


def far_biases(model: nn.Module) -> None:
    """Rows that consist of a bias far beyond all others, in a stream and before the functions."""
    for name, bias in (("blocks.0.fc1", 300.0), ("blocks.1.fc2", 90.0), ("head", 1e4)):
        layer = model.get_submodule(name)
        layer.weight[2] *= 1e-7
        layer.bias[2] = bias


def dead_channels(model: nn.Module) -> None:
    """Hidden channels that nothing reads, and LayerNorm channels without gamma, all of them in one LayerNorm."""
    model.blocks[0].fc2.weight[:, :30] = 0
    model.blocks[0].norm1.weight[:9] = 0
    model.blocks[1].norm2.weight.zero_()


@pytest.mark.parametrize(
    ("change", "floor"),
    [
        (zero("blocks.1.attention.proj", "blocks.1.fc2"), 25.0),
        (zero("blocks.1.attention.q", "blocks.0.attention.v", "blocks.0.fc1"), 25.0),
        (far_biases, 40.0),
        (no_embedding, 25.0),
        (dead_channels, 25.0),
    ],
)
def test_dead_layers_and_channels(change: Callable[[nn.Module], None], floor: float) -> None:
    model = changed(change)
    assert decibel(model, export(model, (X[:1],), X, bits=8)) > floor


def test_a_head_that_begins_at_zero() -> None:
    model = changed(zero("head"))
    program = export(model, (X[:1],), X, bits=4)
    assert torch.equal(program.integer_module(X[:1]), torch.zeros(1, 10))
    model.head.bias.data += 3.0
    program = export(model, (X[:1],), X, bits=4)
    torch.testing.assert_close(program.integer_module(X[:1]), torch.full((1, 10), 3.0), atol=1e-4, rtol=1e-4)


def test_they_train() -> None:
    model = qat.prepare(changed(tiny_rows), (X[:1],), X, QuantizationConfig.preset("w4a8"))
    assert model(X[:2]).isfinite().all()
    assert qat.export(model).report.is_whole


def test_not_a_number_is_still_refused() -> None:
    model = changed(lambda model: model.blocks[0].fc1.weight[3].fill_(torch.nan))
    with pytest.raises(PackQViTError, match=r"blocks\.0\.fc1\.weight"):
        export(model, (X[:1],), X, bits=8)


def test_a_grid_that_no_layer_can_reach_names_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    from packqvit_delegate.passes.integer import linear_rules

    def refuse(*_: object) -> None:
        raise PlanError("the output grid is too fine")

    monkeypatch.setattr(linear_rules, "make_requantizer", refuse)
    with pytest.raises(PlanError, match=r"aten\.\w+ \((patch|blocks\.0\.[\w.]+)\): the output grid is too fine"):
        export(plain_model(), (X[:1],), X, bits=8)


def test_scales_of_empty_rows_are_those_of_the_others() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.0, 0.0], [1e-9, 0.0], [4.0, 0.5]])
    scales = symmetric_scales(weight, 127, search=False) * 127
    torch.testing.assert_close(scales, torch.tensor([2.0, 3.0, 3.0, 4.0]))
    assert bool((symmetric_scales(torch.zeros(3, 4), 7, search=True) > 0.05).all())
