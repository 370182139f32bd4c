"""The programs that are measured: ours at each preset, and what peers are made from (peers.py)."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.lowered_backend_module import get_lowered_submodules
from torch import Tensor, nn

from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig, export
from packqvit_delegate.backend import PackQViTBackend
from packqvit_delegate.data import synthetic_images
from packqvit_delegate.models import RANDOM, LoadedModel, file_stem, load
from packqvit_delegate.models.swin import WindowAttention
from packqvit_delegate.models.vit import Attention

from .terminal import progress

PRESETS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
ALL_PRESETS = list(PRESETS)
HYBRID = " + XNNPACK"
"""Behind the name of a preset where a part of the model stays in float, with XNNPACK."""
OURS = [preset + tail for preset in PRESETS for tail in ("", HYBRID)]
CALIBRATION_IMAGES = 8
CALIBRATION_METHOD = CalibrationMethod(
    rounding="nearest", bias_correction=False, compensation=False, token_importance=False
)
"""Leaves out what only decides which numbers weights and biases are: no operator gets slower or faster by it."""

Engine = Literal["executorch", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class Contestant:
    """One program."""

    name: str
    engine: Engine
    path: Path
    """Of OpenVINO, the .xml; its weights lie beside it in a .bin."""
    disabled: tuple[str, ...] = ()
    """ONNX Runtime's graph optimisations without which the program is faster."""

    @property
    def files(self) -> list[Path]:
        """All that it consists of."""
        return [self.path, self.path.with_suffix(".bin")] if self.path.suffix == ".xml" else [self.path]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.files)


class PlainAttention(nn.Module):
    """The attention of packqvit_delegate.models with its matrix products and softmax written out.

    XNNPACK and ONNX quantisers find these; of scaled_dot_product_attention they take less.
    """

    def __init__(self, fused: Attention) -> None:
        super().__init__()
        self.heads, self.qkv, self.proj = fused.heads, fused.qkv, fused.proj

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        batch, tokens, dim = x.shape
        size = dim // self.heads
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        probabilities = torch.softmax(query @ key.transpose(-2, -1) * size**-0.5, dim=-1)
        return self.proj((probabilities @ value).transpose(1, 2).reshape(batch, tokens, dim))


class PlainWindowAttention(WindowAttention):
    """The same of Swin Transformers, with what depends on the weights alone, the bias of positions, computed once.

    XNNPACK's quantiser would put grids on the arithmetic of its indices.
    """

    position_bias: Tensor

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B * windows, N, dim] -> the same."""
        batch, tokens, dim = x.shape
        size = dim // self.heads
        query, key, value = self.qkv(x).reshape(batch, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.position_bias
        bias = bias if mask is None else (bias + mask.unsqueeze(1)).repeat(batch // len(mask), 1, 1, 1)
        probabilities = torch.softmax(query @ key.transpose(-2, -1) * size**-0.5 + bias, dim=-1)
        return self.proj((probabilities @ value).transpose(1, 2).reshape(batch, tokens, dim))


def with_plain_attention(model: nn.Module) -> nn.Module:
    """A copy of a model of packqvit_delegate.models, timm's or Hugging Face's, whose attention is written out."""
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        if hasattr(module, "fused_attn"):  # timm's
            module.fused_attn = False
        if hasattr(module, "set_attn_implementation"):  # Hugging Face's
            module.set_attn_implementation("eager")
        if isinstance(module, Attention):
            model.set_submodule(name, PlainAttention(module))
        elif isinstance(module, WindowAttention):
            with torch.no_grad():
                bias = module.relative_position_bias_table[module.offsets()].permute(2, 0, 1).unsqueeze(0)
            module.register_buffer("position_bias", bias.contiguous(), persistent=False)
            module.__class__ = PlainWindowAttention
    return model.eval()


class Workshop:
    """What the programs of one model are made from, and their folder; makes ours, anew each time."""

    def __init__(
        self,
        model: str,
        folder: Path,
        *,
        fresh: bool = False,
        loaded: LoadedModel | None = None,
        images: Tensor | None = None,
        method: CalibrationMethod = CALIBRATION_METHOD,
    ) -> None:
        """Loads the model with random weights, the same ones every time, unless it is given.

        Args:
            model: A name that packqvit_delegate.models.load takes.
            folder: Gets a subfolder for the model.
            fresh: Make peers anew, too.
            loaded: The model with weights.
            images: To calibrate with, float32 [n, 3, S, S], normalised; default: synthetic ones.
            method: How ours are calibrated.
        """
        self.loaded = load(model, RANDOM) if loaded is None else loaded
        self.folder = folder / file_stem(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fresh = fresh
        preprocessing = self.loaded.preprocessing
        if images is None:
            images = preprocessing.normalize(synthetic_images(CALIBRATION_IMAGES, preprocessing.size, 0))
        self.images, self.method = images, method

    def program_path(self, preset: str) -> Path:
        """Where our program of a preset goes."""
        return self.folder / f"{preset.lower()}.pte"

    def ours(self, preset: str) -> Contestant:
        """Our program of a preset, with the names of its operators beside it.

        What stays in float goes to XNNPACK.
        """
        path = self.program_path(preset)
        progress.print(f"exporting {path}")
        preprocessing = self.loaded.preprocessing
        program = export(
            self.loaded.module,
            (self.images[:1],),
            self.images.split(min(16, len(self.images) // 2 or 1)),
            config=QuantizationConfig.from_bits(*PRESETS[preset]),
            method=self.method,
            input_normalization=(preprocessing.mean, preprocessing.std),
            partitioners=[XnnpackPartitioner()],
        )
        program.save(path)
        operators_path(path).write_text(json.dumps(operator_names(program)))
        if not program.report.is_whole:
            progress.print(program.report.render().splitlines()[0])
        return Contestant(preset + HYBRID * bool(program.report.fallbacks), "executorch", path)


def operators_path(program: Path) -> Path:
    """Where the operator names of one of our programs are."""
    return program.with_suffix(".operators.json")


def operator_names(program: Program) -> dict[str, str]:
    """The operators behind each of our debug ids, `<instruction>/<debug id>`; ` + ` joins fused ones.

    Operators that come from one PyTorch operator, as the three of attention, share a debug handle; their debug ids are
    in the order of the graph.
    """
    names: dict[int, list[str]] = {}
    graph_module = program.program.exported_program().graph_module
    for _, lowered, _ in get_lowered_submodules(graph_module):
        for node in lowered.original_module.graph.nodes:
            namespace, _, name = node.target.name().partition("::") if node.op == "call_function" else ("", "", "")
            if namespace == "packqvit":
                names.setdefault(node.meta["debug_handle"], []).append(name.partition(".")[0])
    return {
        f"{instruction}/{debug_id}": " + ".join(names[handle].pop(0) for handle in handles)
        for instruction, call in sorted(program.program.delegate_map["forward"].items())
        if call["name"] == PackQViTBackend.__name__
        for debug_id, handles in sorted(call["delegate_map"].items())
    }
