"""Which images each step takes: a function of the seed and the step alone, so that a training can go on anywhere."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.random import SeedSequence
from torch.utils.data import Sampler


class StepSampler(Sampler[list[int]]):
    """Indices of each step's images, for one of several processes; a batch_sampler of DataLoader.

    All images are taken once, in an order of their own in each epoch, then again; what does not fill a batch is left
    out of its epoch.
    """

    def __init__(self, images: int, batch: int, steps: range, seed: int, rank: int = 0, processes: int = 1) -> None:
        """Describes the steps.

        Args:
            images: In the data set; at least `batch * processes`.
            batch: Images of a step in each process.
            steps: Which ones.
            seed: Of the orders.
            rank: Of this process.
            processes: How many there are; together they take what one process would with a batch so many times larger.
        """
        self._images, self._batch, self._steps = images, batch * processes, steps
        self._seed, self._share = seed, slice(rank, None, processes)

    def __len__(self) -> int:
        """Number of steps."""
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        """The steps' indices."""
        per_epoch, epoch, order = self._images // self._batch, -1, torch.empty(0, dtype=torch.int64)
        for step in self._steps:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                order = torch.randperm(self._images, generator=stream(self._seed, epoch))
            first = step % per_epoch * self._batch
            yield order[first : first + self._batch][self._share].tolist()


def stream(seed: int, *indices: int) -> torch.Generator:
    """A generator whose numbers depend on the seed and the indices, and on nothing that was drawn before."""
    state = SeedSequence(seed, spawn_key=indices).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)
