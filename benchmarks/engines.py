"""Runs a contestant by the engine that it was made for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from .contestants import Contestant

Run = Callable[[Tensor], Tensor]
"""One image, float32 [1, 3, S, S], to logits, float32 [1, classes], which the next run may overwrite."""


def load(contestant: Contestant, threads: int) -> Run:
    """Loads a program into this process, whose thread pool gets the size."""
    loaders = {"executorch": _load_executorch, "onnxruntime": _load_onnxruntime, "openvino": _load_openvino}
    return loaders[contestant.engine](contestant, threads)


def silence() -> None:
    """ExecuTorch's native log goes to stderr, and says nothing of use here: errors come back as exceptions."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stderr.fileno())


def _load_executorch(contestant: Contestant, threads: int) -> Run:
    from executorch.extension.pybindings import _C

    from packqvit_delegate import runtime

    _C._unsafe_reset_threadpool(threads)
    model = runtime.load(contestant.path)
    return lambda image: model.run(image)[0]


def _load_onnxruntime(contestant: Contestant, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads are not to spin into other turns
    session = onnxruntime.InferenceSession(
        contestant.path,
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(contestant.disabled) or None,
    )
    name = session.get_inputs()[0].name
    return lambda image: torch.from_numpy(session.run(None, {name: image.numpy()})[0])


def _load_openvino(contestant: Contestant, threads: int) -> Run:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(contestant.path, "CPU", settings).create_infer_request()
    return lambda image: torch.from_numpy(request.infer([image.numpy()], share_inputs=True)[0])
