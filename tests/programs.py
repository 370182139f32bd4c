"""Programs that several tests run, each made once in a process: for running and looking at, not for changing."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from torch import nn

from digits import load_data, train
from models import images, plain_model
from packqvit_delegate import Program, QuantizationConfig, export, runtime
from packqvit_delegate.data import ImageFolder
from packqvit_delegate.models import LoadedModel, load

PRESETS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}


def signal_to_noise(real: torch.Tensor, approximate: torch.Tensor) -> float:
    """In dB."""
    return float(10 * torch.log10(real.square().sum() / (real - approximate).square().sum()))


def eager_logits(program: Program, batch: torch.Tensor) -> torch.Tensor:
    """What the integer graph of a program for one image gives for each of a batch, one behind the other."""
    with torch.no_grad():
        return torch.cat([program.integer_module(image)[0].flatten() for image in batch.split(1)])


def flat_outputs(outputs: object) -> list[torch.Tensor]:
    """Of a tensor, a tuple or a dictionary of tensors."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    assert isinstance(outputs, (tuple, list, dict))
    return list(outputs.values() if isinstance(outputs, dict) else outputs)


def assert_exact(program: Program, batch: torch.Tensor) -> list[torch.Tensor]:
    """Every tier of this CPU gives the bits of the eager graph for the parts of a batch; returns the outputs."""
    size = program.integer_module.graph.find_nodes(op="placeholder")[0].meta["val"].shape[0]
    with torch.no_grad():
        eager = [flat_outputs(program.integer_module(part)) for part in batch.split(size)]
    for tier in runtime.supported_tiers():
        model = runtime.load(program.buffer, tier=tier)
        for part, expected in zip(batch.split(size), eager, strict=True):
            assert all(map(torch.equal, model.run(part), expected)), tier
    return [torch.cat(outputs) for outputs in zip(*eager, strict=True)]


def assert_whole_and_exact(program: Program, batch: torch.Tensor) -> list[torch.Tensor]:
    """`assert_exact` of a program that is one delegate call."""
    assert program.report.is_whole, program.report.render()
    return assert_exact(program, batch)


@functools.cache
def micro_program(preset: str, residual: str = "int16") -> Program:
    """The hand-written micro ViT, calibrated on `images(8)`."""
    x, config = images(8), QuantizationConfig.from_bits(*PRESETS[preset])
    return export(plain_model(), (x[:1],), x, config=dataclasses.replace(config, residual=residual))


@functools.cache
def digits_model() -> nn.Module:
    """The micro ViT of examples/digits.py, trained."""
    return train(load_data()[0])


@functools.cache
def vit_tiny_model(data_root: Path) -> LoadedModel:
    """ViT-Tiny with its trained weights."""
    return load("vit_tiny", data_root / "vit_tiny_patch16_224.in1k.safetensors")


@functools.cache
def vit_tiny_program(data_root: Path, preset: str) -> Program:
    """ViT-Tiny with its trained weights, calibrated on 8 pictures."""
    loaded, (bits, activation_bits) = vit_tiny_model(data_root), PRESETS[preset]
    folder = ImageFolder.open(data_root / "imagenet_one_per_class_1000").sample(8)
    calibration = next(folder.batches(8, loaded.preprocessing)).images
    return export(
        loaded.module,
        (calibration[:1],),
        calibration,
        bits=bits,
        activation_bits=activation_bits,
        input_normalization=(loaded.preprocessing.mean, loaded.preprocessing.std),
    )


@functools.cache
def pictures(data_root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """8 pictures that no program was calibrated on: normalised for ViT-Tiny, and their bytes [8, 3, 224, 224]."""
    batch = next(ImageFolder.open(data_root / "ilsvrc_val_500").batches(8, vit_tiny_model(data_root).preprocessing))
    return batch.images, batch.pixels


@functools.cache
def vit_tiny_logits(data_root: Path, preset: str) -> torch.Tensor:
    """The eager integer graph's logits for `pictures`."""
    return eager_logits(vit_tiny_program(data_root, preset), pictures(data_root)[0])


def forget_large_programs() -> None:
    """Frees the memory of what is not of micro size."""
    for made in (vit_tiny_model, vit_tiny_program, vit_tiny_logits, pictures):
        made.cache_clear()
