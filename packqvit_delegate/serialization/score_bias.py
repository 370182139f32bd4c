"""How a bias of attention scores is written: in few numbers, and an index that a kernel reads in runs."""

from __future__ import annotations

import torch

_MAX_SHIFT = 14
_MAX_COLUMNS = 1 << 15


def in_16_bits(bias: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A bias as int16 and the power of two that it counts, where that is exact; else as it is, and 0."""
    largest = int(torch.maximum(bias, -1 - bias).amax())  # -2^15 fits as 2^15 - 1 does
    shift = max(0, largest.bit_length() - 15)
    if shift > _MAX_SHIFT or bool((bias & ((1 << shift) - 1)).any()):
        return bias, 0
    return (bias >> shift).to(torch.int16), shift


def by_index(bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A bias of few different columns as these and the place of each.

    Of relative positions there are few. All blocks of a model number them alike, so that they share one index.

    Args:
        bias: int16 or int32 [Hb, Nq, Nk].

    Returns:
        The different columns of heads [Hb, U], and uint8 or int16 [Nq, Nk]: which one each pair has. Or the bias and
        None, where that is not smaller.
    """
    heads, queries, keys = bias.shape
    columns, inverse = torch.unique(bias.reshape(heads, -1), dim=1, return_inverse=True)
    count = columns.shape[1]
    index_type = torch.uint8 if count <= 256 else torch.int16
    if count > _MAX_COLUMNS or columns.nbytes + inverse.to(index_type).nbytes >= bias.nbytes:
        return bias, None
    pairs = torch.arange(inverse.numel())
    first = torch.full((count,), inverse.numel()).scatter_reduce(0, inverse, pairs, "amin")
    as_they_come = first.argsort()
    index = as_they_come.argsort()[inverse].reshape(queries, keys)
    order = _in_runs(index, count)
    return columns[:, as_they_come][:, order].contiguous(), order.argsort()[index].to(index_type)


def _in_runs(index: torch.Tensor, count: int) -> torch.Tensor:
    """Numbers of an index [Nq, Nk] in an order in which those that follow each other along the keys do so here too.

    The pairs that do most often are linked first. In windows, a row of keys becomes one run for each query.
    """
    links = (index[:, :-1] * count + index[:, 1:]).flatten()
    links, times = links[index[:, :-1].flatten() != index[:, 1:].flatten()].unique(return_counts=True)
    following, has_previous = [-1] * count, [False] * count
    end_of = list(range(count))  # of the chain that a number begins its last one, and of that the first
    for link in links[times.argsort(descending=True, stable=True)].tolist():
        a, b = divmod(link, count)
        if following[a] != -1 or has_previous[b] or end_of[a] == b:  # taken, or a ring
            continue
        following[a], has_previous[b] = b, True
        start, end = end_of[a], end_of[b]
        end_of[start], end_of[end] = end, start
    order = []
    for number in range(count):
        if has_previous[number]:
            continue
        while number != -1:
            order.append(number)
            number = following[number]
    return torch.tensor(order)
