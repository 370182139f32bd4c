"""Latency of several programs in one process, interleaved."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from .contestants import Contestant
from .engines import load, silence

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
    with stopwatch() as take:
        return take(contestants, image, threads, rounds)


@contextlib.contextmanager
def stopwatch() -> Iterator[Callable[[list[Contestant], torch.Tensor, int, int], list[Timing]]]:
    """`measure` for several groups of contestants, one behind the other in one process, which imports all once."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=silence) as process:
        yield lambda *group: process.submit(_measure, *group).result()


def _measure(contestants: list[Contestant], image: torch.Tensor, threads: int, rounds: int) -> list[Timing]:
    torch.set_num_threads(1)
    runs = {each.name: partial(load(each, threads), image) for each in contestants}
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
