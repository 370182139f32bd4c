"""Swin Transformers: windows, shifts, masks, merging and pads in one delegate call, with the eager graph's bits."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import nn

from models import hugging_face_swin, images, randomize, timm_swin, torchvision_swin
from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig, export
from packqvit_delegate.models import SwinConfig, SwinTransformer
from programs import assert_whole_and_exact, signal_to_noise

CHEAP = CalibrationMethod(
    rounding="nearest", bias_correction=False, compensation=False, clipping=False, token_importance=False
)
ops = torch.ops.packqvit


def built_in(size: int = 32, window: int = 4) -> nn.Module:
    config = SwinConfig(image_size=size, window=window, dim=24, heads=2, depths=(2, 2), num_classes=10)
    return randomize(SwinTransformer(config))


@functools.cache
def program(preset: str, residual: str, batch: int = 1) -> tuple[nn.Module, Program]:
    model, x = built_in(), images(8, 32)
    config = dataclasses.replace(QuantizationConfig.preset(preset), residual=residual)
    return model, export(model, (x[:batch],), x, config=config, method=CHEAP)


@pytest.mark.parametrize(
    ("preset", "residual", "floor"),
    [("w8a8", "int16", 30), ("w8a8", "int8", 25), ("w4a8", "int16", 15), ("w4a4", "int16", 8)],
)
def test_presets(preset: str, residual: str, floor: float) -> None:
    model, found = program(preset, residual)
    x = images(4, 32, seed=1)
    with torch.no_grad():
        real = model(x)
    quantised = assert_whole_and_exact(found, x)[0]
    assert signal_to_noise(real, quantised) > floor


def test_a_batch_gives_what_single_images_give() -> None:
    x = images(2, 32, seed=1)
    _, single = program("w8a8", "int16")
    _, pair = program("w8a8", "int16", batch=2)
    expected = torch.cat([single.integer_module(image) for image in x.split(1)])
    assert torch.equal(assert_whole_and_exact(pair, x)[0], expected)


def test_what_moves_is_read_and_written_in_place() -> None:
    """Each selection of the graph stands where the plan has none: in front of a LayerNorm, or behind an attention."""
    _, found = program("w8a8", "int16")
    selections = [n for n in found.integer_module.graph.nodes if n.target == ops.select_tokens.default]
    assert len(selections) == 2 * 2 + 1  # of the first stage's blocks, and merging; the last stage is one window
    readers = {str(user.target) for node in selections for user in node.users if "reshape" not in str(user.target)}
    assert readers <= {"packqvit.layer_norm.default", "packqvit.linear_add.default"}
    groups = [n.args[5] for n in found.integer_module.graph.nodes if n.target == ops.softmax.default]
    assert [group is not None for group in groups] == [False, True, False, False]


@pytest.mark.parametrize(("size", "window"), [(40, 7), (36, 4)])
def test_maps_that_windows_do_not_tile(size: int, window: int) -> None:
    """Pads to whole windows, and of maps of odd size in front of merging."""
    model, x = built_in(size, window), images(8, size)
    found = export(model, (x[:1],), x, bits=8, method=CHEAP)
    with torch.no_grad():
        real = model(x[:1])
    assert signal_to_noise(real, assert_whole_and_exact(found, x[:1])[0]) > 28


@pytest.mark.parametrize("build", [timm_swin, hugging_face_swin, torchvision_swin])
def test_every_spelling_is_one_call(build: functools.partial) -> None:
    model, x = build(), images(4, 32)
    found = export(model, (x[:1],), x, bits=8, method=CHEAP)
    with torch.no_grad():
        real = model(x[:1])
    assert signal_to_noise(real, assert_whole_and_exact(found, x[:1])[0]) > 28
