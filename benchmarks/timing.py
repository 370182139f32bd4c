"""Latency of several programs in one process, interleaved."""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from .contestants import Contestant

RUNS_PER_TURN = 2
WARM_UP_ROUNDS = 2


@dataclass(frozen=True)
class Timing:
    """The measured runs of one program."""

    name: str
    threads: int
    wall_ms: list[float]
    cpu_ms: list[float]
    """Of all threads of the process, which says something about the program for one thread only: pools spin."""

    @property
    def median(self) -> float:
        """Of the wall time."""
        return statistics.median(self.wall_ms)

    @property
    def minimum(self) -> float:
        """Of the wall time."""
        return min(self.wall_ms)

    @property
    def cpu_median(self) -> float:
        """Of the CPU time."""
        return statistics.median(self.cpu_ms)


def measure(contestants: list[Contestant], image: torch.Tensor, threads: int, rounds: int) -> list[Timing]:
    """Runs the contestants round by round in a process of its own, where the thread pools can be set.

    Each round gives every contestant a turn, in an order drawn anew, so that the clock's and the machine's moods hit
    all alike. A turn is one run that is not counted, which fills the caches, and RUNS_PER_TURN that are.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_silence) as process:
        return process.submit(_measure, contestants, image, threads, rounds).result()


def _silence() -> None:
    """ExecuTorch's native log goes to stderr, and says nothing of use here: errors come back as exceptions."""
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), sys.stderr.fileno())


def _measure(contestants: list[Contestant], image: torch.Tensor, threads: int, rounds: int) -> list[Timing]:
    torch.set_num_threads(1)
    runs = {contestant.name: _load(contestant, image, threads) for contestant in contestants}
    timings = {name: Timing(name, threads, [], []) for name in runs}
    generator = random.Random(0)
    for number in range(-WARM_UP_ROUNDS, rounds):
        for name in generator.sample(list(runs), len(runs)):
            runs[name]()
            for _ in range(RUNS_PER_TURN):
                wall, cpu = time.perf_counter(), time.process_time()
                runs[name]()
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if number >= 0:
                    timings[name].wall_ms.append(1000 * wall)
                    timings[name].cpu_ms.append(1000 * cpu)
    return list(timings.values())


def _load(contestant: Contestant, image: torch.Tensor, threads: int) -> Callable[[], object]:
    return {"executorch": _load_executorch, "onnxruntime": _load_onnxruntime, "openvino": _load_openvino}[
        contestant.engine
    ](contestant, image, threads)


def _load_executorch(contestant: Contestant, image: torch.Tensor, threads: int) -> Callable[[], object]:
    from executorch.extension.pybindings import _C

    from packqvit_delegate import runtime

    _C._unsafe_reset_threadpool(threads)
    model = runtime.load(contestant.path)
    return lambda: model.run(image)


def _load_onnxruntime(contestant: Contestant, image: torch.Tensor, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")  # its threads are not to spin into other turns
    session = onnxruntime.InferenceSession(contestant.path, options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: image.numpy()}
    return lambda: session.run(None, inputs)


def _load_openvino(contestant: Contestant, image: torch.Tensor, threads: int) -> Callable[[], object]:
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.compile_model(contestant.path, "CPU", settings).create_infer_request()
    data = image.numpy()
    return lambda: request.infer([data], share_inputs=True)
