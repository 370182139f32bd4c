"""Micro Vision Transformers from the float module to the native runtime: one delegate call, the eager graph's bits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from models import CASES, images, plain_model
from packqvit_delegate import LayerOverride, PackQViTError, QuantizationConfig, export, quantize
from packqvit_delegate.passes import float_operators
from programs import assert_exact, micro_program, signal_to_noise

PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("residual", ["int8", "int16"])
@pytest.mark.parametrize("preset", ["w8a8", "w4a8", "w4a4"])
def test_presets_give_one_delegate_call_and_the_eager_bits(preset: str, residual: str) -> None:
    model, batch, program = plain_model(), images(8), micro_program(preset.upper(), residual)
    assert program.report.is_whole, program.report.render()
    assert float_operators(program.integer_module) == []
    assert_exact(program, batch)
    floor = {"w8a8": 20, "w4a8": 10, "w4a4": 3}[preset]
    quantised = torch.cat([program.integer_module(image) for image in batch.split(1)])
    assert signal_to_noise(model(batch), quantised) > floor


@pytest.mark.parametrize("probabilities", ["log2", "linear"])
def test_probability_formats(probabilities: str) -> None:
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), probabilities=probabilities)
    batch = images(4)
    program = export(plain_model(), (batch[:2],), batch, config=config)
    assert program.report.is_whole
    assert_exact(program, batch)


WHOLE = [
    "timm_vit",
    "timm_vit_patch16",
    "timm_no_class_token",
    "timm_registers",
    "timm_dinov2",
    "timm_deit_distilled",
    "hf_vit_eager",
    "hf_deit",
    "hf_dinov2",
    "torchvision_vit",
    "plain_masked",
    "plain_no_prefix",
    "plain_tanh",
    "plain_sliced_token",
    "plain_mean",
]


@pytest.mark.parametrize("name", WHOLE)
def test_the_model_zoo_runs_in_one_delegate_call(name: str) -> None:
    case = CASES[name]
    model, batch = case.build(), images(4, case.image)
    program = export(model, (batch[:1],), batch, bits=8)
    assert program.report.is_whole, program.report.render()
    assert_exact(program, batch)
    quantised = torch.cat([program.integer_module(image) for image in batch.split(1)])
    assert signal_to_noise(model(batch), quantised) > 15


def test_pixels_become_bytes_exactly() -> None:
    levels = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(5))
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in PIXELS)
    batch = (levels / 255.0 - mean) / std
    program = export(plain_model(), (batch[:1],), batch, bits=8, input_normalization=PIXELS)
    quantize = next(n for n in program.integer_module.graph.nodes if str(n.target) == "packqvit.quantize.default")
    constants = [program.integer_module.get_buffer(str(argument.target)) for argument in quantize.args[1:3]]
    codes = torch.ops.packqvit.quantize(batch, *constants, *quantize.args[3:])
    assert torch.equal(codes.int() + 128, levels.int())
    assert_exact(program, batch)


def test_the_last_block_computes_the_class_token_alone() -> None:
    program = micro_program("W8A8")
    shapes = [
        tuple(n.meta["val"].shape)
        for n in program.integer_module.graph.nodes
        if str(n.target) in ("packqvit.linear_add.default", "packqvit.lookup_table.default")
    ]
    assert [shape[1] for shape in shapes] == [17, 17, 17, 1, 1, 1]


def test_overrides_change_single_layers() -> None:
    overrides = {"*.mlp.*": LayerOverride(weight_bits=8), "*.1.mlp.*": LayerOverride(weight_bits=4)}
    config = dataclasses.replace(QuantizationConfig.preset("w4a8"), overrides=overrides)
    model, batch = CASES["timm_vit"].build(), images(2)
    program = export(model, (batch[:1],), batch, config=config)
    widths = [n.args[5] for n in program.integer_module.graph.nodes if str(n.target) == "packqvit.linear.default"]
    widths_add = [
        n.args[7] for n in program.integer_module.graph.nodes if str(n.target) == "packqvit.linear_add.default"
    ]
    assert widths == [4, 4, 4, 8, 4, 4, 4, 4]
    assert widths_add == [4, 8, 4, 4]


def test_a_split_projection_has_the_name_of_the_fused_one() -> None:
    overrides = {"blocks.0.attn.qkv": LayerOverride(weight_bits=8), "blocks.1.attn": LayerOverride(activation_bits=8)}
    config = dataclasses.replace(QuantizationConfig.preset("w4a4"), overrides=overrides)
    model, batch = CASES["timm_vit"].build(), images(2)
    nodes = quantize(model, (batch[:1],), batch, config).graph.nodes
    widths = [n.args[5] for n in nodes if str(n.target) == "packqvit.linear.default"]
    largest = [n.args[-1] for n in nodes if str(n.target) == "packqvit.attention_values.default"]
    assert widths == [8, 8, 8, 4, 4, 4, 4, 4]
    assert largest == [7, 127]


@pytest.mark.parametrize(
    ("pattern", "override"),
    [("blocks.7.*", LayerOverride(weight_bits=8)), ("blocks.0.attn.qkv", LayerOverride(activation_bits=8))],
)
def test_an_override_for_no_layer_is_refused(pattern: str, override: LayerOverride) -> None:
    config = dataclasses.replace(QuantizationConfig.preset("w4a4"), overrides={pattern: override})
    batch = images(2)
    with pytest.raises(PackQViTError, match="no layer of the model"):
        export(CASES["timm_vit"].build(), (batch[:1],), batch, config=config)


def test_exports_are_deterministic() -> None:
    batch = images(8)
    assert export(plain_model(), (batch[:1],), batch, bits=4).buffer == micro_program("W4A4").buffer
