"""The programs that are measured: ours at each preset, and peers made from the very same model."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir.lowered_backend_module import get_lowered_submodules
from torch import Tensor, nn
from torch.fx import GraphModule

from packqvit_delegate import CalibrationMethod, Program, QuantizationConfig, export
from packqvit_delegate.backend import PackQViTBackend
from packqvit_delegate.data import synthetic_images
from packqvit_delegate.models import RANDOM, file_stem, load
from packqvit_delegate.models.swin import WindowAttention
from packqvit_delegate.models.vit import Attention
from packqvit_delegate.passes.fold_constants import fold_constants

from .terminal import progress

PRESETS = {"W8A8": (8, 8), "W4A8": (4, 8), "W4A4": (4, 4)}
ALL_PRESETS = list(PRESETS)
HYBRID = " + XNNPACK"
"""Behind the name of a preset where a part of the model stays in float, with XNNPACK."""
OURS = [preset + tail for preset in PRESETS for tail in ("", HYBRID)]
XNNPACK_INT8, XNNPACK_DYNAMIC, XNNPACK_FP32 = "XNNPACK int8", "XNNPACK dynamic", "XNNPACK fp32"
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
    """Makes the programs of one model in a folder. Peers that are there are kept; ours are made anew each time."""

    def __init__(self, model: str, folder: Path, *, fresh: bool = False) -> None:
        """Loads the model with random weights, the same ones every time.

        Args:
            model: A name that packqvit_delegate.models.load takes.
            folder: Gets a subfolder for the model.
            fresh: Make peers anew, too.
        """
        self.loaded = load(model, RANDOM)
        self.folder = folder / file_stem(model)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fresh = fresh
        preprocessing = self.loaded.preprocessing
        self.images = preprocessing.normalize(synthetic_images(CALIBRATION_IMAGES, preprocessing.size, 0))

    def ours(self, preset: str) -> Contestant:
        """Our program of a preset, with the names of its operators beside it.

        What stays in float goes to XNNPACK.
        """
        path = self.folder / f"{preset.lower()}.pte"
        progress.print(f"exporting {path}")
        preprocessing = self.loaded.preprocessing
        program = export(
            self.loaded.module,
            (self.images[:1],),
            self.images.split(4),
            config=QuantizationConfig.from_bits(*PRESETS[preset]),
            method=CALIBRATION_METHOD,
            input_normalization=(preprocessing.mean, preprocessing.std),
            partitioners=[XnnpackPartitioner()],
        )
        program.save(path)
        operators_path(path).write_text(json.dumps(operator_names(program)))
        if not program.report.is_whole:
            progress.print(program.report.render().splitlines()[0])
        return Contestant(preset + HYBRID * bool(program.report.fallbacks), "executorch", path)

    def xnnpack_int8(self) -> Contestant:
        """Static 8-bit quantisation, weights per channel: fast, and useless for trained models (docs/benchmarks.md)."""
        return self._xnnpack_int8(XNNPACK_INT8, "xnnpack_int8.pte", is_dynamic=False)

    def xnnpack_dynamic(self) -> Contestant:
        """8-bit weights per channel, activations of linear layers in 8 bits with ranges taken anew at each run."""
        return self._xnnpack_int8(XNNPACK_DYNAMIC, "xnnpack_dynamic.pte", is_dynamic=True)

    def _xnnpack_int8(self, name: str, file: str, *, is_dynamic: bool) -> Contestant:
        path = self.folder / file
        if self._is_missing(path):
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

            config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=is_dynamic)
            prepared = prepare_pt2e(self._exported(), XNNPACKQuantizer().set_global(config))
            with torch.no_grad():
                for image in self.images.split(1):
                    prepared(image)
            self._lower_to_xnnpack(convert_pt2e(prepared), path)
        return Contestant(name, "executorch", path)

    def xnnpack_fp32(self) -> Contestant:
        """Float32."""
        path = self.folder / "xnnpack_fp32.pte"
        if self._is_missing(path):
            self._lower_to_xnnpack(self._exported(), path)
        return Contestant(XNNPACK_FP32, "executorch", path)

    def onnx_peers(self) -> list[Contestant]:
        """ONNX Runtime and OpenVINO, where installed, each on the 8-bit ONNX model that it runs fastest."""
        if not all(importlib.util.find_spec(maker) for maker in ("onnx", "onnxscript", "onnxruntime")):
            return []
        peers = [self._onnx_peer("ONNX Runtime int8", "onnxruntime", symmetric=False)]
        if importlib.util.find_spec("openvino"):
            peers.append(self._onnx_peer("OpenVINO int8", "openvino", symmetric=True))
        return peers

    def _onnx_peer(self, name: str, engine: Engine, *, symmetric: bool) -> Contestant:
        path = self.folder / f"{engine}_int8.onnx"
        if self._is_missing(path):
            from .onnx_model import write_int8_model

            write_int8_model(with_plain_attention(self.loaded.module), self.images, path, symmetric=symmetric)
        return Contestant(name, engine, path)

    def _is_missing(self, path: Path) -> bool:
        if path.is_file() and not self.fresh:
            return False
        progress.print(f"exporting {path}")
        return True

    def _exported(self) -> GraphModule:
        """The float model, with everything that depends on weights alone computed once.

        Otherwise it is computed in each run, outside of XNNPACK: 10 of TinyViT's 28 ms gather biases of positions; and
        a linear layer of a constant, as the queries of SigLIP's pooling, has no dynamically quantised program at all.
        """
        model = with_plain_attention(self.loaded.module)
        return fold_constants(torch.export.export(model, (self.images[:1],)).module())

    def _lower_to_xnnpack(self, model: nn.Module, path: Path) -> None:
        from executorch.exir import to_edge_transform_and_lower

        exported = torch.export.export(model, (self.images[:1],))
        program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
        path.write_bytes(program.buffer)


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
