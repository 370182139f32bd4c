"""What each operator stands for, in float64: the real function of its arguments, and how far its codes may be from it.

The integer definitions of docs/numerics.md are checked against each other bit by bit elsewhere. These know nothing of
them but the grids and the stated errors, so that a definition that is wrong everywhere alike is found out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_FLOAT_ERROR = 2.0**-23
"""Of two float32 operations, relatively."""


@dataclasses.dataclass(frozen=True)
class Real:
    """The real result in output codes, and the largest error that docs/numerics.md allows; inf: out of the domain."""

    value: Tensor
    error: Tensor | float = 0.0


ORACLES: dict[str, Callable[..., Real]] = {}
"""By operator; the arguments are the operator's."""


def oracle(name: str) -> Callable[[Callable[..., Real]], Callable[..., Real]]:
    """Registers the oracle of `packqvit::name`."""

    def register(function: Callable[..., Real]) -> Callable[..., Real]:
        ORACLES[name] = function
        return function

    return register


# Requantisation: every result is real until it is compared.


@dataclasses.dataclass(frozen=True)
class Scale:
    """`multiplier`, `shift`, l and F of a requantiser."""

    multiplier: Tensor
    shift: Tensor
    left_shift: int
    fraction_bits: int

    def steps(self, accumulator: Tensor) -> Tensor:
        """Accumulators in output steps."""
        return accumulator * self.factor

    @property
    def factor(self) -> Tensor:
        exponent = self.left_shift - 15 - self.shift.double() - self.fraction_bits
        return self.multiplier.double() * torch.exp2(exponent)

    def error(self, addend: float = 0.0) -> float:
        """Half a step, and one step of 2^-F; `addend`: the error of what is added, in steps of 2^-F."""
        final = 0.5 if self.fraction_bits else 0.0
        return final + (1.0 + addend) * 2.0**-self.fraction_bits


def _requantize(acc: Tensor, scale: Scale, zero_point: int, qmin: int, qmax: int, error: Any = 0.0) -> Real:
    real = (scale.steps(acc) + zero_point).clamp(qmin, qmax)
    return Real(real, scale.error() + error * scale.factor)


def _accumulate(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.double() @ weight.double().t() + bias.double()


@oracle("linear")
def linear(x, weight, bias, multiplier, shift, weight_bits, left_shift, fraction_bits, zero_point, qmin, qmax) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    return _requantize(_accumulate(x, weight, bias), scale, zero_point, qmin, qmax)


@oracle("linear_accumulate")
def linear_accumulate(x, weight, bias, weight_bits) -> Real:
    return Real(_accumulate(x, weight, bias))


def _clamp_to(dtype: torch.dtype, x: Tensor) -> Tensor:
    return x.clamp(torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _stream(residual: Tensor, multiplier: Tensor, fraction_bits: int) -> Tensor:
    """A residual in the steps of the sum."""
    lifted = 8 if residual.dtype == torch.int8 else 0
    ratio = torch.where(multiplier == 32767, 32768, multiplier.int())
    return residual.double() * ratio * 2.0 ** (lifted - 15 - fraction_bits)


@oracle("linear_add")
def linear_add(
    x, weight, bias, multiplier, shift, residual, residual_multiplier, weight_bits, left_shift, fraction_bits
) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    real = _stream(residual, residual_multiplier, fraction_bits) + scale.steps(_accumulate(x, weight, bias))
    return Real(_clamp_to(residual.dtype, real), scale.error(addend=0.5))


@oracle("patch_embedding")
def patch_embedding(
    x, weight, bias, multiplier, shift, position, prefix, height, width, weight_bits, left_shift, fraction_bits
) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    kernel = weight.double().reshape(len(weight), x.shape[1], height, width)
    acc = functional.conv2d(x.double(), kernel, bias.double(), (height, width)).flatten(2).transpose(1, 2)
    real = _clamp_to(prefix.dtype, position.double() * 2.0**-fraction_bits + scale.steps(acc))
    return Real(torch.cat([prefix.double().expand(len(x), *prefix.shape), real], 1), scale.error())


@oracle("mean_tokens")
def mean_tokens(x, bias, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    return _requantize(x.double().sum(1, keepdim=True) + bias, scale, zero_point, qmin, qmax)


@oracle("max_tokens")
def max_tokens(x, bias, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    largest = functional.max_pool1d(x.double().transpose(1, 2), x.shape[1]).transpose(1, 2)
    return _requantize(largest + bias, scale, zero_point, qmin, qmax)


@oracle("repeat_tokens")
def repeat_tokens(tokens, like) -> Real:
    return Real(torch.stack([tokens[0].double() for _ in like]))


@oracle("join_tokens")
def join_tokens(x, y) -> Real:
    return Real(torch.stack([torch.cat([a, b]).double() for a, b in zip(x, y, strict=True)]))


@oracle("requantize_add")
def requantize_add(x, multiplier, shift, residual, residual_multiplier, left_shift, fraction_bits) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    real = _stream(residual, residual_multiplier, fraction_bits) + scale.steps(x.double())
    return Real(_clamp_to(residual.dtype, real), scale.error(addend=0.5))


# Attention.


def _heads(x: Tensor, heads: int) -> Tensor:
    return x.double().reshape(*x.shape[:2], heads, -1).transpose(1, 2)


@oracle("attention_scores")
def attention_scores(q, k, heads) -> Real:
    return Real(_heads(q, heads) @ _heads(k, heads).transpose(-2, -1))


def _relative(q: Tensor, numbers: Tensor, rows: int, columns: int) -> Tensor:
    """float64 [B, H, N, N] of queries [B, H, N, d]: each pair of tokens by its distance."""
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).reshape(-1, 2)
    distance = places[None] - places[:, None]  # of key j from query i: [i, j]
    offsets = (distance[..., 0] + rows - 1, distance[..., 1] + 2 * rows - 1 + columns - 1)
    table = numbers.double().expand(q.shape[1], *numbers.shape[1:])
    return sum(torch.einsum("bhid,hijd->bhij", q.double(), table[:, offset]) for offset in offsets)  # type: ignore


@oracle("relative_bias")
def relative_bias(q, relative, rows, columns) -> Real:
    real = _relative(q, relative, rows, columns)
    return Real(real, 1e-5)


@oracle("add_relative_bias")
def add_relative_bias(scores, q, relative, rows, columns, multiplier, shift) -> Real:
    added = _relative(_heads(q, scores.shape[1]), relative, rows, columns) * multiplier * 2.0**-shift
    return Real(scores.double() + added, 1.0 if shift else 0.0)


@oracle("softmax")
def softmax(x, bias, multiplier, shift, log2, groups=None) -> Real:
    scores = x.double()
    if bias is not None:
        scores = scores + bias.double().repeat(x.shape[0] * x.shape[1] // len(bias), 1, 1).reshape(x.shape)
    if groups is not None:
        numbers = groups.repeat(len(x) // len(groups), 1).reshape(len(x), 1, -1, 1)
        scores = scores.masked_fill(numbers != numbers.mT, -math.inf)
    octaves = (scores - scores.amax(-1, keepdim=True)) * (multiplier * 2.0 ** -(15 + shift) / 1024)
    octave = 1 / 1024  # the error of a distance
    if not log2:
        real = 255 * torch.exp2(octaves)
        return Real(real, 0.5 + 1.1e-3 * real)
    total = torch.exp2(octaves).sum(-1, keepdim=True)
    lost = x.shape[-1] * 2.0**-15 / total  # weights are rounded to 14 bits
    return Real((total.log2() - octaves).clamp_max(15), 0.5 + 2.5 * octave + 5.2e-4 + torch.log2(1 + lost))


@oracle("attention_values")
def attention_values(p, v, multiplier, shift, log2, left_shift, fraction_bits, zero_point, qmin, qmax) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    codes = p.double()
    error: Any = 0.0
    if log2:
        weights = torch.where(codes < 15, torch.exp2(14 - codes), 0.0)
        acc = weights @ _heads(v, p.shape[1])
    else:
        total = codes.sum(-1, keepdim=True)
        acc = 256 * (codes @ _heads(v, p.shape[1])) / total.clamp_min(1)
        error = torch.where(total >= 128, 1.5 + 2.0**-15 * acc.abs(), math.inf)  # softmax gives 255 at least
        error = error.transpose(1, 2).reshape(v.shape[0], p.shape[2], -1)
    acc = acc.transpose(1, 2).reshape(v.shape[0], p.shape[2], -1)
    return _requantize(acc, scale, zero_point, qmin, qmax, error)


def _norm(x, channel_shift, weight, bias, epsilon, output_shift, centred=True) -> Real:
    """The affine norm in steps of the output times 2^F, with its error but for the last rounding."""
    values = x.double() if channel_shift is None else x.double() * torch.exp2(channel_shift.double())
    channels = x.shape[-1]
    bits = 14 - math.ceil((channels - 1).bit_length() / 2)
    mean = values.mean(-1, keepdim=True) if centred else 0.0
    variance = (values - mean).square().mean(-1, keepdim=True)
    sigma = (variance + epsilon / channels**2).clamp_min(channels**-2.0).sqrt()
    normalized = (values - mean) / sigma * 2.0**bits
    allowed = 1.0 + 2.0**-15 * normalized.abs() + 2.0 ** (bits - 13) / sigma
    real = (normalized * weight + bias.double()) * 2.0**-output_shift - 0.5  # the bias holds half a step
    return Real(real, allowed * weight.double().abs() * 2.0**-output_shift)


@oracle("layer_norm")
def layer_norm(x, channel_shift, weight, bias, epsilon, output_shift, qmin, qmax) -> Real:
    norm = _norm(x, channel_shift, weight, bias, epsilon, output_shift)
    return Real(norm.value.clamp(qmin, qmax), 0.5 + norm.error)


@oracle("layer_norm_add")
def layer_norm_add(
    x, channel_shift, weight, bias, residual, residual_multiplier, epsilon, output_shift, fraction_bits
) -> Real:
    norm = _norm(x, channel_shift, weight, bias, epsilon, output_shift)
    steps = 2.0**-fraction_bits
    real = _stream(residual, residual_multiplier, fraction_bits) + norm.value * steps
    last = 0.5 if fraction_bits else 0.0
    return Real(_clamp_to(residual.dtype, real), last + (1.0 + norm.error) * steps)


@oracle("head_norm")
def head_norm(x, weight, bias, heads, centred, epsilon, output_shift, qmin, qmax) -> Real:
    split = (heads, x.shape[-1] // heads)
    by_head = (x.unflatten(-1, split), None, weight.reshape(split), bias.reshape(split))
    norm = _norm(*by_head, epsilon, output_shift, centred)
    return Real(norm.value.flatten(-2).clamp(qmin, qmax), 0.5 + norm.error.flatten(-2))


# Single codes, tokens and the ends.


@oracle("activation")
def activation(x) -> Real:
    return Real(x.double())


@oracle("rotary")
def rotary(x, cosine, sine, partner) -> Real:
    mixed = x.double() * cosine.double() + x.double()[..., partner] * sine.double()
    return Real(mixed, _FLOAT_ERROR * (x.abs() + x[..., partner].abs()).double())


@oracle("requantize")
def requantize(x, multiplier, shift, left_shift, fraction_bits, zero_point, qmin, qmax) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    return _requantize(x.double(), scale, zero_point, qmin, qmax, 0.0)


@oracle("rotate")
def rotate(x, cosine, sine, partner, multiplier, shift, left_shift, fraction_bits, qmin, qmax) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    heads = x.double().unflatten(-1, (-1, len(partner)))
    mixed = (heads * cosine + heads[..., partner] * sine) * 2.0**-16
    return _requantize(mixed.flatten(-2), scale, 0, qmin, qmax, 0.5)


@oracle("multiply")
def multiply(
    x,
    y,
    x_zero_point,
    y_zero_point,
    product_shift,
    multiplier,
    shift,
    left_shift,
    fraction_bits,
    zero_point,
    qmin,
    qmax,
) -> Real:
    scale = Scale(multiplier, shift, left_shift, fraction_bits)
    words = (x.double() - x_zero_point) * (y.double() - y_zero_point) * 2.0**-product_shift
    limited = _clamp_to(torch.int16, words)
    return _requantize(limited, scale, zero_point, qmin, qmax, 0.5 if product_shift else 0.0)


@oracle("lookup_table")
def lookup_table(x, table) -> Real:
    return Real(functional.one_hot(x.long() + 128, 256).double() @ table.double())


@oracle("select_tokens")
def select_tokens(x, index, fill=0) -> Real:
    order = torch.tensor(index)
    chosen = functional.one_hot(order + 1, x.shape[1] + 1)[:, 1:].double() @ x.double()
    return Real(chosen + (order < 0).unsqueeze(1) * fill)


def _along(vector: Tensor, axis: int, x: Tensor) -> Tensor:
    ones = [1] * (x.ndim - vector.ndim - axis % x.ndim)
    return vector.double().flatten() if vector.numel() == 1 else vector.double().reshape([*vector.shape, *ones])


@oracle("quantize")
@oracle("quantize_offset")
def quantize(x, inverse_scale, offset, axis, qmin, qmax) -> Real:
    real = (x.double() - _along(offset, axis, x)) * _along(inverse_scale, axis, x)
    real = real.nan_to_num(0.0, math.inf, -math.inf).clamp(qmin, qmax)
    return Real(real, 0.5 + _FLOAT_ERROR * real.abs())


@oracle("dequantize")
def dequantize(x, scale, zero_point, axis, channels_first=False) -> Real:
    real = (x.double() - zero_point) * _along(scale, axis, x)
    real = torch.einsum("p...c->pc...", real) if channels_first else real
    return Real(real, _FLOAT_ERROR * real.abs())


@oracle("dequantize_offset")
def dequantize_offset(x, scale, offset, axis) -> Real:
    product = x.double() * _along(scale, axis, x)
    return Real(product + _along(offset, axis, x), _FLOAT_ERROR * (product.abs() + _along(offset, axis, x).abs()))


@oracle("quantize_probabilities")
def quantize_probabilities(x, log2) -> Real:
    if log2:
        return Real((-x.double().log2()).clamp(0, 15), 0.5 + 1e-5)
    return Real(255 * x.double() / x.double().amax(-1, keepdim=True).clamp_min(1e-30), 0.5 + 1e-4)


@oracle("dequantize_probabilities")
def dequantize_probabilities(x, log2) -> Real:
    codes = x.double()
    real = (
        torch.where(codes < 15, torch.exp2(-codes), 0.0) if log2 else codes / codes.sum(-1, keepdim=True).clamp_min(1)
    )
    return Real(real, _FLOAT_ERROR * real)


QUICK_GELU = "v1 = mul.Tensor(x, 1.702); v2 = sigmoid.default(v1); v3 = mul.Tensor(x, v2)"


@oracle("function")
def function(x, text) -> Real:
    assert text == QUICK_GELU
    return Real(x.double() / (1 + torch.exp(-1.702 * x.double())), 1e-5)


@oracle("pixel_codes")
def pixel_codes(x, channels_last) -> Real:
    return Real((x.permute(0, 3, 1, 2) if channels_last else x).double() - 128)


@oracle("top_k")
def top_k(x, k) -> Real:
    def best(row: list[float]) -> list[int]:
        return sorted(range(len(row)), key=lambda i: (-row[i], math.copysign(1, -row[i]), i))[:k]

    rows = [best(row) for row in x.double().reshape(-1, x.shape[-1]).tolist()]
    return Real(torch.tensor(rows).double().reshape(*x.shape[:-1], k))


@oracle("take_scores")
def take_scores(x, index) -> Real:
    rows = zip(x.double().reshape(-1, x.shape[-1]).tolist(), index.reshape(-1, index.shape[-1]).tolist(), strict=True)
    return Real(torch.tensor([[row[i] for i in indices] for row, indices in rows]).double().reshape(index.shape))
