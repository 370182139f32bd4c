"""Programs that exercise one operator each: random values, the extremes of every range, odd shapes and tails.

A family is one program: its forward calls the operator once for each case, on its own inputs and constants.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from packqvit_delegate import Program, lower

ops = torch.ops.packqvit


@dataclasses.dataclass(frozen=True)
class Input:
    """A tensor that the program takes at run time; other tensors are its constants."""

    tensor: torch.Tensor


Case = tuple[Any, ...]
"""Arguments of the operator."""


class Family(nn.Module):
    """The operator on all of its cases."""

    def __init__(self, name: str, operator: Callable[..., torch.Tensor], cases: list[Case]) -> None:
        super().__init__()
        self.name = name
        self._operator = operator
        self._cases = cases
        for i, case in enumerate(cases):
            for j, argument in enumerate(case):
                if isinstance(argument, torch.Tensor):
                    self.register_buffer(f"constant_{i}_{j}", argument)

    def inputs(self) -> tuple[torch.Tensor, ...]:
        return tuple(a.tensor for case in self._cases for a in case if isinstance(a, Input))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = iter(inputs)
        results = []
        for i, case in enumerate(self._cases):
            arguments = []
            for j, argument in enumerate(case):
                if isinstance(argument, Input):
                    arguments.append(next(values))
                elif isinstance(argument, torch.Tensor):
                    arguments.append(getattr(self, f"constant_{i}_{j}"))
                else:
                    arguments.append(argument)
            results.append(self._operator(*arguments))
        return tuple(results)

    def lower(self) -> Program:
        exported = torch.export.export(self.eval(), self.inputs())
        return lower(exported.module(), self.inputs())


class Random:
    """Tensors of the operators' types, from one seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def integers(self, low: int, high: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Uniform in [low, high]; about one value in eight is an end of the range."""
        values = torch.randint(low, high + 1, shape, generator=self.generator)
        ends = torch.randint(0, 16, shape, generator=self.generator)
        values = torch.where(ends == 0, low, torch.where(ends == 1, high, values))
        return values.to(dtype)

    def codes(self, *shape: int) -> torch.Tensor:
        return self.integers(-128, 127, shape, torch.int8)

    def weight(self, bits: int, *shape: int) -> torch.Tensor:
        bound = 7 if bits == 4 else 127
        return self.integers(-bound, bound, shape, torch.int8)

    def requantizer(self, channels: int, shift: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
        multiplier = self.integers(1 << 14, (1 << 15) - 1, (channels,), torch.int16)
        multiplier[channels // 2 :: 7] = 0
        return multiplier, self.integers(0, shift, (channels,), torch.uint8)


def _linear_constants(r: Random, bits: int, features: int, outputs: int, shift: int) -> tuple[torch.Tensor, ...]:
    bias = r.integers(-(1 << 12), 1 << 12, (outputs,), torch.int32)
    return r.weight(bits, outputs, features), bias, *r.requantizer(outputs, shift)


_LINEAR_SHAPES = (
    # leading shape, K, O
    ((1,), 1, 1),
    ((3,), 5, 7),
    ((2, 9), 31, 33),
    ((1, 17), 64, 48),
    ((13,), 127, 65),
    ((1, 50), 192, 100),
    ((2,), 4096, 5),
    ((2,), 6144, 3),
)


def _far_accumulators(r: Random, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Bias, multiplier and shift: output steps of up to 2^17, and further, for an input of zeros."""
    sums = torch.tensor([0, 1, 16384, 32766, 32767, 32768, 40000, 65535, 65536, 131071, 131072, 1 << 29])
    bias = sums[torch.arange(outputs) % len(sums)] * torch.tensor([1, -1])[torch.arange(outputs) // len(sums) % 2]
    multiplier = r.integers(1 << 14, (1 << 15) - 1, (outputs,), torch.int16)
    shift = torch.where(bias.abs() > 1 << 17, 12, 0) + r.integers(0, 1, (outputs,), torch.int64)
    return bias.to(torch.int32), multiplier, shift.to(torch.uint8)


def _wide_linear(r: Random) -> Iterator[Case]:
    """Linears that a 16-bit stream begins with."""
    for lead, features, outputs in _LINEAR_SHAPES:
        for bits, left_shift, shift in ((4, 0, 2), (4, 2, 4), (8, 0, 6), (8, 1, 12)):
            weight, bias, *requantizer = _linear_constants(r, bits, features, outputs, shift)
            yield Input(r.codes(*lead, features)), weight, bias, *requantizer, bits, left_shift, 0, 0, -32768, 32767
    bias, multiplier, shifts = _far_accumulators(r, 97)
    x, weight = torch.zeros(3, 5, dtype=torch.int8), r.weight(8, 97, 5)
    yield Input(x), weight, bias, multiplier, shifts, 8, 0, 0, 0, -32768, 32767


def linear(r: Random) -> Iterator[Case]:
    yield from _wide_linear(r)
    for lead, features, outputs in _LINEAR_SHAPES:
        for bits in (4, 8):
            x = Input(r.codes(*lead, features))
            weight, bias, multiplier, shift = _linear_constants(r, bits, features, outputs, 12)
            yield x, weight, bias, multiplier, shift, bits, 0, 6, -3, -128, 127
            yield x, weight, bias, multiplier, shift, bits, 2, 6, 1, -8, 7
    for value in (-128, 127):
        for sign in (-1, 1):
            for bits, bound in ((4, 7), (8, 127)):
                x = Input(torch.full((3, 300), value, dtype=torch.int8))
                weight = torch.full((9, 300), sign * bound, dtype=torch.int8)
                bias = torch.full((9,), sign * (1 << 24), dtype=torch.int32)
                multiplier = torch.tensor([1 << 14, (1 << 15) - 1, 0] * 3, dtype=torch.int16)
                shift = torch.tensor([0, 1, 8, 15, 16, 20, 24, 29, 30], dtype=torch.uint8)
                for fraction_bits in (0, 1, 6):
                    yield x, weight, bias, multiplier, shift, bits, 0, fraction_bits, 127, -128, 127
                    yield x, weight, bias, multiplier, shift, bits, 4, fraction_bits, -128, -120, 119


_GRIDS = ((torch.int8, 6), (torch.int8, 0), (torch.int16, 0))


def _opposite_residuals(r: Random) -> Iterator[Case]:
    """Branches and streams that are both far beyond the grid, and whose sum is not."""
    for dtype, fraction_bits in _GRIDS:
        limits = torch.iinfo(dtype)
        bias, multiplier, shift = _far_accumulators(r, 97)
        x, weight = torch.zeros(3, 5, dtype=torch.int8), r.weight(8, 97, 5)
        residual = torch.where(bias > 0, limits.min, limits.max).to(dtype).repeat(3, 1)
        residual[1] = r.integers(limits.min, limits.max, (97,), dtype)
        for factor in (32767, 32766, 16384, 0):
            factors = torch.full((97,), factor, dtype=torch.int16)
            yield Input(x), weight, bias, multiplier, shift, Input(residual), factors, 8, 0, fraction_bits


def linear_add(r: Random) -> Iterator[Case]:
    yield from _opposite_residuals(r)
    for lead, features, outputs in _LINEAR_SHAPES:
        for bits in (4, 8):
            for dtype, fraction_bits in ((torch.int8, 6), (torch.int8, 3), (torch.int16, 0)):
                weight, bias, multiplier, shift = _linear_constants(r, bits, features, outputs, 14)
                limits = torch.iinfo(dtype)
                residual = r.integers(limits.min, limits.max, (*lead, outputs), dtype)
                factor = r.integers(0, 32767, (outputs,), torch.int16)
                x = Input(r.codes(*lead, features))
                yield x, weight, bias, multiplier, shift, Input(residual), factor, bits, 1, fraction_bits


def linear_accumulate(r: Random) -> Iterator[Case]:
    for lead, features, outputs in _LINEAR_SHAPES:
        for bits in (4, 8):
            weight, bias, *_ = _linear_constants(r, bits, features, outputs, 0)
            yield Input(r.codes(*lead, features)), weight, bias, bits


def _opposite_positions(r: Random) -> Iterator[Case]:
    for dtype, fraction_bits in _GRIDS:
        bias, multiplier, shift = _far_accumulators(r, 71)
        position = torch.where(bias > 0, -32768, 32767).to(torch.int16).repeat(4, 1)
        position[1] = r.integers(-32768, 32767, (71,), torch.int16)
        prefix = torch.zeros(1, 71, dtype=dtype)
        x, weight = torch.zeros(1, 3, 4, 4, dtype=torch.int8), r.weight(8, 71, 12)
        yield Input(x), weight, bias, multiplier, shift, position, prefix, 2, 2, 8, 0, fraction_bits


def patch_embedding(r: Random) -> Iterator[Case]:
    yield from _opposite_positions(r)
    for (batch, channels, height, width), (rows, columns), width_out, prefixes in (
        ((1, 3, 8, 8), (4, 4), 24, 1),
        ((2, 1, 6, 9), (2, 3), 7, 0),
        ((1, 3, 14, 7), (7, 7), 33, 2),
        ((2, 4, 5, 5), (1, 1), 5, 5),
        ((2, 3, 11, 9), (4, 8), 9, 1),  # pixels at the right and the bottom that are in no patch
        ((1, 3, 7, 13), (7, 3), 6, 0),
    ):
        features, patches = channels * rows * columns, height // rows * (width // columns)
        for bits in (4, 8):
            for dtype, fraction_bits in ((torch.int8, 6), (torch.int16, 0)):
                weight, bias, multiplier, shift = _linear_constants(r, bits, features, width_out, 10)
                position = r.integers(-32768, 32767, (patches, width_out), torch.int16)
                limits = torch.iinfo(dtype)
                prefix = r.integers(limits.min, limits.max, (prefixes, width_out), dtype)
                x = Input(r.codes(batch, channels, height, width))
                yield x, weight, bias, multiplier, shift, position, prefix, rows, columns, bits, 0, fraction_bits


def attention_scores(r: Random) -> Iterator[Case]:
    for batch, queries, keys, heads, size in (
        (1, 1, 1, 1, 1),
        (2, 5, 7, 3, 16),
        (1, 17, 33, 2, 31),
        (1, 50, 50, 3, 64),
    ):
        q, k = r.codes(batch, queries, heads * size), r.codes(batch, keys, heads * size)
        yield Input(q), Input(k), heads
        yield q[:1], Input(k), heads


_MAPS = (
    # batch, heads, channels of a head, rows, columns
    (1, 1, 1, 1, 1),
    (2, 3, 5, 2, 3),
    (1, 2, 32, 1, 33),
    (3, 2, 16, 7, 7),
    (1, 1, 64, 13, 17),
    (1, 1, 3, 25, 44),
)


def add_relative_bias(r: Random) -> Iterator[Case]:
    for batch, heads, size, rows, columns in _MAPS:
        tokens, distances = rows * columns, 2 * (rows + columns) - 2
        for shared, magnitude, multiplier, shift in (
            (True, 1 << 20, 1 << 14, 14),
            (False, 1 << 26, 32767, (4 * size - 1).bit_length()),  # up to 2^27 for a distance
            (True, 1 << 10, 12345, 30),
            (False, 0, 0, 7),
        ):
            scores = r.integers(-magnitude, magnitude, (batch, heads, tokens, tokens), torch.int32)
            numbers = r.integers(-127, 127, (1 if shared else heads, distances, size), torch.int8)
            yield Input(scores), Input(r.codes(batch, tokens, heads * size)), numbers, rows, columns, multiplier, shift
    ends = torch.full((1, 6, 64), -128, dtype=torch.int8)
    numbers = torch.tensor([[-127], [127], [127], [-127]] * 2, dtype=torch.int8).expand(1, 8, 64)
    for multiplier, shift in ((1 << 14, 30), (32767, 15), (1 << 14, 8)):
        scores = torch.zeros(1, 1, 6, 6, dtype=torch.int32)
        yield Input(scores), Input(ends), numbers.contiguous(), 2, 3, multiplier, shift


def softmax(r: Random) -> Iterator[Case]:
    for log2 in (True, False):
        for shape in ((1, 1, 1, 1), (2, 3, 5, 17), (1, 2, 7, 197), (1, 1, 3, 1031), (1, 1, 2, 4097)):
            for magnitude, shift in ((1 << 10, -3), (1 << 17, 2), (1 << 29, 15), ((1 << 29), 0), (3, -15)):
                x = Input(r.integers(-magnitude, magnitude, shape, torch.int32))
                yield x, None, 23456, shift, log2
        for shift in range(-15, -9):  # a step of the scores is octaves
            yield Input(r.integers(-9, 9, (1, 2, 5, 33), torch.int32)), None, 1 << 14, shift, log2
        flat = torch.zeros(1, 1, 4, 1031, dtype=torch.int32)
        yield Input(flat), None, 1 << 14, 0, log2
        yield Input(flat - (1 << 29)), None, (1 << 15) - 1, 30, log2
        spike = flat.clone()
        spike[..., 7] = 1 << 29
        yield Input(spike), None, (1 << 15) - 1, 0, log2
        for repeats in (1, 3, 6):
            x = Input(r.integers(-(1 << 14), 1 << 14, (2, 3, 9, 9), torch.int32))
            bias = r.integers(-(1 << 29), 1 << 14, (repeats, 9, 9), torch.int32)
            yield x, bias, 20000, 1, log2

        for windows, tokens in ((1, 1), (3, 9), (6, 49)):
            # The first window is one group; the last has one for each token, so that it sees itself alone.
            groups = r.integers(0, 3, (windows, tokens), torch.uint8)
            groups[0] = 255
            groups[-1] = torch.arange(tokens, dtype=torch.uint8)
            x = Input(r.integers(-(1 << 14), 1 << 14, (6, 2, tokens, tokens), torch.int32))
            for repeats in (0, 2, 12):
                bias = r.integers(-(1 << 15), 1 << 14, (repeats, tokens, tokens), torch.int32) if repeats else None
                yield x, bias, 20000, 1, log2, groups


def attention_values(r: Random) -> Iterator[Case]:
    for log2, top in ((True, 15), (False, 255)):
        for batch, heads, queries, keys, size in (
            (1, 1, 1, 1, 1),
            (2, 3, 5, 7, 16),
            (1, 2, 17, 33, 31),
            (1, 3, 9, 197, 64),
        ):
            p = r.integers(0, top, (batch, heads, queries, keys), torch.uint8)
            v = r.integers(-127, 127, (batch, keys, heads * size), torch.int8)
            multiplier, shift = r.requantizer(heads * size, 20)
            yield Input(p), Input(v), multiplier, shift, log2, 0, 6, 5, -128, 127
        for value in (-127, 127):
            code, keys = (0, 1031) if log2 else (255, 4097)
            p = torch.full((1, 1, 2, keys), code, dtype=torch.uint8)
            v = torch.full((1, keys, 4), value, dtype=torch.int8)
            multiplier, shift = r.requantizer(4, 30)
            yield Input(p), Input(v), multiplier, shift, log2, 0, 6, 0, -128, 127
            for shift in (0, 8, 22):  # from far beyond the grid to within it, and a zero point the other way
                shifts = torch.full((4,), shift, dtype=torch.uint8)
                yield Input(p), Input(v), multiplier, shifts, log2, 0, 6, -128 if value > 0 else 127, -128, 127


def _norms(r: Random) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]]:
    """Rows of all kinds, channel shifts, weights and biases."""
    for channels in (2, 3, 17, 33, 64, 96, 192, 384, 1000, 1536, 4096):
        for dtype in (torch.int8, torch.int16):
            limits = torch.iinfo(dtype)
            rows = [
                r.integers(limits.min, limits.max, (5, channels), dtype),
                r.integers(-3, 3, (3, channels), dtype),
                torch.full((1, channels), limits.min, dtype=dtype),
                torch.full((1, channels), limits.max, dtype=dtype),
                torch.zeros(1, channels, dtype=dtype),
            ]
            flat = torch.zeros(2, channels, dtype=dtype)  # sigma is less than a step
            flat[0, 0], flat[1, : (channels + 1) // 2] = 1, -1
            outlier = r.integers(-5, 5, (1, channels), dtype)
            outlier[0, channels // 2] = limits.max
            alternating = torch.tensor([limits.min, limits.max], dtype=dtype).repeat(channels)[:channels].reshape(1, -1)
            weight = r.integers(-32767, 32767, (channels,), torch.int16)
            bias = r.integers(-((1 << 30) - 1), (1 << 30) - 1, (channels,), torch.int32)
            shift = r.integers(0, 7, (channels,), torch.uint8) if dtype == torch.int8 else None
            yield torch.cat([*rows, flat, outlier, alternating]), shift, weight, bias


def layer_norm(r: Random) -> Iterator[Case]:
    for x, shift, weight, bias in _norms(r):
        yield Input(x), shift, weight, bias, 0, 20, -128, 127
        yield Input(x), None, weight, bias >> 12, 1 << 57, 18, -8, 7
        yield Input(x.reshape(1, *x.shape)), shift, weight >> 3, bias >> 9, 5, 14, -128, 127
        yield Input(x), shift, weight, bias >> 3, 0, 13, -32768, 32767
        yield Input(x), None, weight >> 1, bias >> 10, 3, 6, -30000, 128


def _opposite_norms(r: Random) -> Iterator[Case]:
    """Branches that are far beyond the grid, from their bias, and streams that bring them back."""
    sums = torch.tensor([0, 1, 8191, 8192, 32767, 32768, 40000, 65535, 65536, (1 << 29) - 1])
    bias = sums[torch.arange(97) % len(sums)] * torch.tensor([1, -1])[torch.arange(97) // len(sums) % 2]
    x, weight = r.integers(-32768, 32767, (3, 97), torch.int16), r.integers(-2, 2, (97,), torch.int16)
    for dtype, fraction_bits in _GRIDS:
        limits = torch.iinfo(dtype)
        residual = torch.where(bias > 0, limits.min, limits.max).to(dtype).repeat(3, 1)
        residual[1] = r.integers(limits.min, limits.max, (97,), dtype)
        for factor in (32767, 32766, 16384, 0):
            factors = torch.full((97,), factor, dtype=torch.int16)
            yield Input(x), None, weight, (2 * bias).to(torch.int32), Input(residual), factors, 0, 1, fraction_bits


def layer_norm_add(r: Random) -> Iterator[Case]:
    yield from _opposite_norms(r)
    for x, shift, weight, bias in _norms(r):
        for dtype, fraction_bits, scale in ((torch.int8, 6, 14), (torch.int8, 0, 20), (torch.int16, 0, 14)):
            limits = torch.iinfo(dtype)
            residual = r.integers(limits.min, limits.max, x.shape, dtype)
            factors = r.integers(0, 32767, (x.shape[-1],), torch.int16)
            yield Input(x), shift, weight, bias, Input(residual), factors, scale % 7, scale, fraction_bits


def head_norm(r: Random) -> Iterator[Case]:
    for x, _, weight, bias in _norms(r):
        channels = x.shape[-1]
        for heads, centred in ((1, False), (3, True), (2, False)):
            if channels * heads > 4096:
                continue
            many = torch.cat([x.roll(head, 0) for head in range(heads)], -1)
            weights, biases = weight.repeat(heads), bias.repeat(heads)
            yield Input(many), weights.roll(1), biases, heads, centred, 0, 20, -127, 127
            yield Input(many), weights >> 2, biases.roll(1) >> 9, heads, centred, 5, 14, -127, 127
            yield Input(many), weights.roll(1), biases, heads, centred, 1, 14, -32767, 32767


def requantize(r: Random) -> Iterator[Case]:
    for dtype in (torch.int8, torch.int16):
        limits = torch.iinfo(dtype)
        for channels in (1, 7, 96, 131):
            x = r.integers(limits.min, limits.max, (2, 5, channels), dtype)
            x[0, :2] = torch.tensor([limits.min, limits.max], dtype=dtype).unsqueeze(1)
            multiplier, shift = r.requantizer(channels, 3 if dtype == torch.int8 else 7)
            yield Input(x), multiplier, shift, 0, 6, -9, -128, 127
            yield Input(x), multiplier, shift, 5, 4, 100, -8, 7
            yield Input(x), multiplier, shift, 0, 0, 0, -32768, 32767


_PARTNERS = ([1, 0], [2, 3, 0, 1], [1, 0, 3, 2, 5, 4], [0, 1, 4, 3, 2], [0], list(range(32, 64)) + list(range(32)))
"""Neighbours, halves, some channels alone, all alone, and a head as wide as a model's."""


def rotate(r: Random) -> Iterator[Case]:
    for partner in _PARTNERS:
        for heads, tokens, by_head in ((1, 1, 1), (3, 5, 3), (2, 9, 1)):
            d = len(partner)
            x = r.integers(-32768, 32767, (2, tokens, heads * d), torch.int16)
            x[0, 0], x[1, -1] = -32768, 32767
            factors = [r.integers(-32767, 32767, (tokens, by_head, d), torch.int16) for _ in range(2)]
            multiplier, shift = r.requantizer(heads * d, 7)
            yield Input(x), *factors, partner, multiplier, shift, 0, 6, -127, 127
            yield Input(x), *factors[::-1], partner, multiplier, shift, 4, 3, -7, 7


def multiply(r: Random) -> Iterator[Case]:
    for channels in (1, 7, 96, 131):
        for x_type, y_type in itertools.product((torch.int8, torch.int16), repeat=2):
            shape, ranges = (2, 5, channels), [torch.iinfo(dtype) for dtype in (x_type, y_type)]
            x, y = (r.integers(i.min, i.max, shape, getattr(torch, i.dtype)) for i in ranges)
            x[0, :2] = torch.tensor([[ranges[0].min], [ranges[0].max]])
            y[0, :2] = ranges[1].min
            zeros = [-128 if dtype == torch.int8 else 0 for dtype in (x_type, y_type)]
            wide = [dtype == torch.int16 for dtype in (x_type, y_type)]
            multiplier, shift = r.requantizer(channels, 7)
            requantizers = ((0, 6, -9, -128, 127), (5, 4, 100, -8, 7), (0, 0, 0, -32768, 32767))
            for product_shift, requantizer in zip((1, 15, 15 if all(wide) else 8), requantizers, strict=True):
                yield Input(x), Input(y), *zeros, product_shift, multiplier, shift, *requantizer


def lookup_table(r: Random) -> Iterator[Case]:
    yield Input(torch.arange(-128, 128, dtype=torch.int8)), r.codes(256)
    yield Input(r.codes(2, 7, 13)), torch.arange(127, -129, -1).to(torch.int8)


def select_tokens(r: Random) -> Iterator[Case]:
    for dtype in (torch.int8, torch.int16, torch.int32):
        x = Input(r.integers(-100, 100, (2, 5, 7), dtype))
        yield x, [0]
        yield x, [4, 0, 0, 2]
        yield x, [1, -1, 3, -1], -7


def mean_tokens(r: Random) -> Iterator[Case]:
    for tokens in (1, 3, 196):
        for dtype in (torch.int8, torch.int16):
            limits = torch.iinfo(dtype)
            x = Input(r.integers(limits.min, limits.max, (2, tokens, 33), dtype))
            bias = r.integers(-4000, 4000, (33,), torch.int32)
            multiplier, shift = r.requantizer(33, 12)
            yield x, bias, multiplier, shift, 0, 6, -7, -128, 127
            yield x, bias, multiplier, shift, 0, 0, 0, -32768, 32767
    for zero_point in (-32768, 32767):  # means beyond the grid that the zero point brings back
        bias, multiplier, shift = _far_accumulators(r, 97)
        x = Input(torch.zeros(1, 3, 97, dtype=torch.int16))
        yield x, bias, multiplier, shift, 0, 0, zero_point, -32768, 32767
        yield x, bias, multiplier, shift, 0, 6, zero_point >> 8, -128, 127


def max_tokens(r: Random) -> Iterator[Case]:
    for tokens in (1, 3, 196):
        for dtype in (torch.int8, torch.int16):
            limits = torch.iinfo(dtype)
            codes = r.integers(limits.min, limits.max, (2, tokens, 33), dtype)
            codes[:, :, :3] = torch.tensor([limits.min, limits.max, 0], dtype=dtype)
            bias = r.integers(-200, 200, (33,), torch.int32)
            multiplier, shift = r.requantizer(33, 3 if dtype == torch.int8 else 7)
            yield Input(codes), bias, multiplier, shift, 0, 6, -7, -128, 127
            yield Input(codes), bias, multiplier, shift, 5, 4, 3, -8, 7
            yield Input(codes), bias, multiplier, shift, 0, 0, 0, -32768, 32767


def repeat_tokens(r: Random) -> Iterator[Case]:
    like = Input(r.codes(3, 2, 5))
    for dtype in (torch.int8, torch.int16):
        limits = torch.iinfo(dtype)
        for shape in ((1, 4, 7), (1, 1, 33), (1, 2, 3, 8)):
            yield r.integers(limits.min, limits.max, shape, dtype), like


def join_tokens(r: Random) -> Iterator[Case]:
    for dtype in (torch.int8, torch.int16):
        x = r.integers(-100, 100, (2, 5, 7), dtype)
        for tokens in (1, 5, 8):
            yield Input(x), Input(r.integers(-100, 100, (2, tokens, 7), dtype))


def requantize_add(r: Random) -> Iterator[Case]:
    for dtype in (torch.int8, torch.int16):
        limits = torch.iinfo(dtype)
        for residual_type, fraction_bits in ((torch.int8, 6), (torch.int8, 0), (torch.int16, 0)):
            bounds = torch.iinfo(residual_type)
            for channels in (1, 7, 96, 131):
                x = r.integers(limits.min, limits.max, (2, 5, channels), dtype)
                residual = r.integers(bounds.min, bounds.max, (2, 5, channels), residual_type)
                x[0, :2] = torch.tensor([limits.min, limits.max], dtype=dtype).unsqueeze(1)
                residual[0, :2] = torch.tensor([bounds.min, bounds.max], dtype=residual_type).unsqueeze(1)
                multiplier, shift = r.requantizer(channels, 3 if dtype == torch.int8 else 7)
                factors = r.integers(0, 32767, (channels,), torch.int16)
                factors[0] = 32767
                for left_shift in (0, 5):
                    yield Input(x), multiplier, shift, Input(residual), factors, left_shift, fraction_bits
                yield Input(x), multiplier, shift * 0, Input(residual), factors, 14, fraction_bits  # far beyond


def quantize(r: Random) -> Iterator[Case]:
    x = torch.randn(2, 3, 5, 4, generator=r.generator) * 40
    x.view(-1)[:8] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5, 1.5, 2.5, -0.5, 1e30])
    scale, offset = torch.tensor([1.0, 2.5, 127.5]), torch.tensor([0.0, -0.3, 0.5])
    yield Input(x), scale, offset, 1, -128, 127
    yield Input(x), scale[:1], offset[:1], 3, -8, 7
    yield Input(x), scale[:1] * 1000, offset[:1], 0, -32768, 32767
    for axis, shape in ((1, (3, 5, 4)), (1, (3, 5)), (2, (5, 4)), (2, (5,))):  # positions, added to each token
        offset = torch.randn(shape, generator=r.generator) * 20
        scale = torch.rand(shape, generator=r.generator) * 300
        yield Input(x), scale, offset, axis, -32768, 32767
        yield Input(x), scale.flatten()[:1], offset, axis, -32768, 32767
        yield Input(x), scale, offset.flatten()[:1], axis, -128, 127


def dequantize(r: Random) -> Iterator[Case]:
    scale = torch.rand(7, generator=r.generator)
    for dtype in (torch.int8, torch.int16, torch.int32):
        limits = torch.iinfo(dtype)
        x = Input(r.integers(limits.min, limits.max, (2, 3, 7), dtype))
        yield x, scale, 0, 2
        yield x, scale[:1], 0 if dtype == torch.int32 else -5, 0
        for zero_point in (limits.min, limits.max):  # differences of int32 need 33 bits
            yield x, scale, zero_point, 2
        many = Input(r.integers(limits.min, limits.max, (2, 37, 7), dtype))
        yield many, scale, 0, 2, True
        yield many, scale[:1], 0 if dtype == torch.int32 else 9, 2, True
        tiles = Input(r.integers(limits.min, limits.max, (2, 75, 37), dtype))  # more than a tile, of several blocks
        yield tiles, torch.rand(37, generator=r.generator), 0, 2, True


def pixel_codes(r: Random) -> Iterator[Case]:
    every_byte = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    for channels_last in (True, False):
        yield Input(every_byte), channels_last
        yield Input(r.integers(0, 255, (2, 5, 7, 3), torch.uint8)), channels_last
        yield Input(r.integers(0, 255, (1, 3, 97, 101), torch.uint8)), channels_last
        yield Input(r.integers(0, 255, (1, 97, 101, 3), torch.uint8)), channels_last


def _scores(r: Random) -> torch.Tensor:
    """Rows with many equal scores, all of them equal, in order, in reverse, and the special numbers."""
    row = torch.arange(1000, dtype=torch.float32)
    ties = torch.randint(-3, 4, (2, 1000), generator=r.generator).float()
    special = torch.full((1000,), -1.0)
    special[::97] = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1e-45, -1e-45, 3e38, -3e38, 2.0, 2.0, 0.0])
    return torch.stack([*ties, torch.zeros(1000), row, -row, special])


def top_k(r: Random) -> Iterator[Case]:
    for k in (1, 5, 37):
        yield Input(_scores(r)), k
        yield Input(torch.randn(2, 3, 41, generator=r.generator)), k
    yield Input(torch.randn(3, 5, generator=r.generator)), 5


def take_scores(r: Random) -> Iterator[Case]:
    for k in (1, 5):
        yield Input(_scores(r)), Input(r.integers(0, 999, (6, k), torch.int32))
    yield Input(torch.randn(2, 3, 4, generator=r.generator)), Input(r.integers(0, 3, (2, 3, 4), torch.int32))


FAMILIES: dict[str, tuple[Any, Callable[[Random], Iterator[Case]]]] = {
    "quantize": (ops.quantize.default, quantize),
    "dequantize": (ops.dequantize.default, dequantize),
    "linear": (ops.linear.default, linear),
    "linear_add": (ops.linear_add.default, linear_add),
    "linear_accumulate": (ops.linear_accumulate.default, linear_accumulate),
    "patch_embedding": (ops.patch_embedding.default, patch_embedding),
    "attention_scores": (ops.attention_scores.default, attention_scores),
    "add_relative_bias": (ops.add_relative_bias.default, add_relative_bias),
    "softmax": (ops.softmax.default, softmax),
    "attention_values": (ops.attention_values.default, attention_values),
    "layer_norm": (ops.layer_norm.default, layer_norm),
    "layer_norm_add": (ops.layer_norm_add.default, layer_norm_add),
    "head_norm": (ops.head_norm.default, head_norm),
    "requantize": (ops.requantize.default, requantize),
    "rotate": (ops.rotate.default, rotate),
    "multiply": (ops.multiply.default, multiply),
    "lookup_table": (ops.lookup_table.default, lookup_table),
    "select_tokens": (ops.select_tokens.default, select_tokens),
    "mean_tokens": (ops.mean_tokens.default, mean_tokens),
    "max_tokens": (ops.max_tokens.default, max_tokens),
    "repeat_tokens": (ops.repeat_tokens.default, repeat_tokens),
    "join_tokens": (ops.join_tokens.default, join_tokens),
    "requantize_add": (ops.requantize_add.default, requantize_add),
    "pixel_codes": (ops.pixel_codes.default, pixel_codes),
    "top_k": (ops.top_k.default, top_k),
    "take_scores": (ops.take_scores.default, take_scores),
}


def make_family(name: str, seed: int = 0) -> Family:
    """One family, with its random values drawn from a seed."""
    operator, cases = FAMILIES[name]
    return Family(name, operator, list(cases(Random(seed))))
