"""The peers: which there are, what each needs, and how it is made of the same model and calibration images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from . import nncf_programs, onnx_programs, xnnpack_programs
from .contestants import Contestant, Engine, Workshop, with_plain_attention
from .terminal import progress

XNNPACK_DYNAMIC, XNNPACK_8DA4W = "XNNPACK int8 dynamic", "XNNPACK 8da4w"
XNNPACK_STATIC, XNNPACK_FP32 = "XNNPACK int8 static", "XNNPACK fp32"


@dataclass(frozen=True)
class Peer:
    """A program that another library makes and runs.

    Attributes:
        name: For people.
        engine: What runs it.
        file: Its name in the workshop's folder.
        make: Writes it, from the model with attention written out, calibration images and a path.
        needs: Packages besides our own requirements.
        disabled: See `Contestant`.
    """

    name: str
    engine: Engine
    file: str
    make: Callable[[nn.Module, Tensor, Path], None]
    needs: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


ONNX = ("onnx", "onnxscript", "onnxruntime")
XNNPACK = [
    Peer(XNNPACK_DYNAMIC, "executorch", "xnnpack_dynamic.pte", xnnpack_programs.write_dynamic),
    Peer(XNNPACK_8DA4W, "executorch", "xnnpack_8da4w.pte", xnnpack_programs.write_8da4w),
    Peer(XNNPACK_STATIC, "executorch", "xnnpack_int8.pte", xnnpack_programs.write_static),
    Peer(XNNPACK_FP32, "executorch", "xnnpack_fp32.pte", xnnpack_programs.write_fp32),
]
OTHERS = [
    Peer(
        "OpenVINO int8 NNCF",
        "openvino",
        "openvino_nncf.xml",
        nncf_programs.write_openvino,
        ("onnx", "onnxscript", "openvino", "nncf"),
    ),
    Peer(
        "OpenVINO int8 static",
        "openvino",
        "openvino_static.onnx",
        onnx_programs.write_static_signed,
        (*ONNX, "openvino"),
    ),
    Peer(
        "ONNX Runtime int8 NNCF",
        "onnxruntime",
        "onnxruntime_nncf.onnx",
        nncf_programs.write_onnx,
        (*ONNX, "nncf"),
        # It joins products and additions to what cannot run in integers between NNCF's quantisers.
        ("MatMulAddFusion",),
    ),
    Peer("ONNX Runtime int8 dynamic", "onnxruntime", "onnxruntime_dynamic.onnx", onnx_programs.write_dynamic, ONNX),
    Peer(
        "ONNX Runtime int8 static", "onnxruntime", "onnxruntime_static.onnx", onnx_programs.write_static_unsigned, ONNX
    ),
]
PEERS = {peer.name: peer for peer in (*XNNPACK, *OTHERS)}
"""The one that keeps a trained model's accuracy is first of each library's."""


def make_peers(workshop: Workshop, peers: Iterable[Peer]) -> list[Contestant]:
    """Makes the peers that their own tools can make of the model, and names the others.

    Those whose file is there are kept, unless the workshop is `fresh`.
    """
    made = []
    for peer in peers:
        path = workshop.folder / peer.file
        if peer.missing:
            names = " ".join(peer.missing)
            progress.print(f"left out: {peer.name} needs {names}: .venv/bin/pip install {names}", soft_wrap=True)
            continue
        if workshop.fresh or not path.is_file():
            progress.print(f"exporting {path}")
            try:
                peer.make(with_plain_attention(workshop.loaded.module), workshop.images, path)
            except Exception as error:  # each tool raises its own kinds
                reason = (str(error).splitlines() or [""])[0][:200]
                progress.print(f"left out: {peer.name}: {type(error).__name__}: {reason}", soft_wrap=True)
                continue
        made.append(Contestant(peer.name, peer.engine, path, peer.disabled))
    return made
