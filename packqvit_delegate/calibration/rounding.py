"""Rounds the weights of a linear layer so that its output, not each weight, has the least error."""

from __future__ import annotations

import dataclasses

import torch

from ..quantizer.observers.weight import symmetric_scales

_BLOCK = 64
_SWEEPS = 20
_ROUNDS = 2
_SCALE_FACTORS = (1.0, 0.8, 0.9, 1.1, 1.2)


@dataclasses.dataclass(frozen=True)
class Rounded:
    """Weights on a grid.

    Attributes:
        codes: float64 [O, K], integers.
        scales: float64 [O], steps of the codes.
        unrounded: float64 [O, K], where each weight would stand were it alone not rounded: how much a code was torn.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    unrounded: torch.Tensor


def gptq(weight: torch.Tensor, hessian: torch.Tensor, scales: torch.Tensor, qmax: int, damping: float) -> torch.Tensor:
    """Codes that keep `weight @ x` where rounding one column after the other moves the error into the rest.

    Columns are rounded in the order of falling `hessian[c, c]`.

    Source: Frantar et al., "GPTQ", ICLR 2023, algorithm 1 with activation order.

    Args:
        weight: float64 [O, K].
        hessian: float64 [K, K], mean of x x^T.
        scales: float64 [O], steps of the codes.
        qmax: Largest code.
        damping: Added to the diagonal of the Hessian, as a share of its mean.

    Returns:
        float64 [O, K], integers in [-qmax, qmax].
    """
    scales = scales.unsqueeze(1)
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    weight, hessian = weight[:, order].clone(), hessian[order][:, order].clone()
    silent = hessian.diagonal() <= 0  # inputs that are always 0: nothing depends on their weights
    hessian.diagonal()[silent] = 1.0
    hessian.diagonal().add_(damping * float(diagonal.mean()) + 1e-12)
    factor = torch.linalg.cholesky(torch.cholesky_inverse(_positive_definite(hessian)[1]), upper=True)
    codes = torch.empty_like(weight)
    for first in range(0, weight.shape[1], _BLOCK):
        last = min(first + _BLOCK, weight.shape[1])
        errors = torch.empty_like(weight[:, first:last])
        for column in range(first, last):
            value = weight[:, column : column + 1]
            code = (value / scales).round().clamp(-qmax, qmax)
            error = (value - code * scales) / factor[column, column]
            weight[:, column:last] -= error @ factor[column : column + 1, column:last]
            codes[:, column : column + 1] = code
            errors[:, column - first : column - first + 1] = error
        weight[:, last:] -= errors @ factor[first:last, last:]
    return codes[:, torch.argsort(order)]


def _positive_definite(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A symmetric matrix, damped further where it is not positive definite, and its lower factor, float64 [K, K].

    Inputs that hardly differ, as those of a classifier for one image, leave nothing but rounding errors of either sign.
    """
    extra = 1e-12
    while True:
        factor, failed_at = torch.linalg.cholesky_ex(matrix)
        if int(failed_at) == 0:
            return matrix, factor
        matrix = matrix + extra * torch.eye(len(matrix), dtype=matrix.dtype)
        extra *= 10


def weighted_scales(weight: torch.Tensor, hessian: torch.Tensor, qmax: int) -> torch.Tensor:
    """Steps of least squared error per output channel, each weight counting by the energy of its input.

    Args:
        weight: float64 [O, K].
        hessian: float64 [K, K], mean of x x^T.
        qmax: Largest code; from 127 on the step that clips nothing is taken.

    Returns:
        float64 [O].
    """
    return symmetric_scales(weight, qmax, search=qmax < 127, importance=hessian.diagonal().clamp_min(1e-12))


def settle(
    weight: torch.Tensor, hessian: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, qmax: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of which no single one can change for the better, and where each would stand were it not rounded.

    Columns in turn take the code of least error beside all others, until none changes.

    Source: Behdin et al., "QuantEase", arXiv 2309.01885.

    Args:
        weight: float64 [O, K].
        hessian: float64 [K, K], positive definite: mean of x x^T, damped.
        codes: float64 [O, K], integers in [-qmax, qmax] to start from.
        scales: float64 [O], their steps.
        qmax: Largest code.

    Returns:
        Codes, float64 [O, K], and the values of least error beside all other codes, in steps, float64 [O, K].
    """
    codes, steps = codes.clone(), scales.unsqueeze(1)
    gradient = (codes * steps - weight) @ hessian
    moving = torch.arange(len(codes))  # output channels do not depend on one another: one at rest stays there
    for _ in range(_SWEEPS):
        # A column at a time is looked at, so that it has to lie together: [K, O].
        now, slope = codes[moving].T.contiguous(), gradient[moving].T.contiguous()
        before = now.clone()
        _sweep(now, slope, hessian, scales[moving], qmax)
        codes[moving], gradient[moving] = now.T, slope.T
        moving = moving[(now != before).any(0)]
        if len(moving) == 0:
            break
    return codes, codes - gradient / (hessian.diagonal() * steps)


def _sweep(codes: torch.Tensor, gradient: torch.Tensor, hessian: torch.Tensor, scales: torch.Tensor, qmax: int) -> None:
    """One turn of `settle` over all columns, in place: `codes` and `gradient` are float64 [K, O]."""
    curvature = hessian.diagonal()
    for first in range(0, len(codes), _BLOCK):
        last = min(first + _BLOCK, len(codes))
        change = torch.empty_like(codes[first:last])
        inside = hessian[first:last, first:last]
        for column in range(first, last):
            wish = codes[column] - gradient[column] / (curvature[column] * scales)
            code = wish.round_().clamp_(-qmax, qmax)
            torch.mul(code - codes[column], scales, out=change[column - first])
            codes[column] = code
            gradient[first:last] += torch.outer(inside[column - first], change[column - first])
        gradient[:first] += hessian[:first, first:last] @ change
        gradient[last:] += hessian[last:, first:last] @ change


def gptq_with_scales(
    weight: torch.Tensor, hessian: torch.Tensor, qmax: int, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`gptq` with the step of each output channel that leaves the least error of the layer's output.

    The step that suits rounding one by one is not the one that suits rounding with feedback: some around it are tried.

    Args:
        weight: float64 [O, K].
        hessian: float64 [K, K], mean of x x^T.
        qmax: Largest code; from 127 on only the step that clips nothing is tried.
        damping: As for `gptq`.

    Returns:
        Codes, float64 [O, K], and steps, float64 [O].
    """
    start = weighted_scales(weight, hessian, qmax)
    best_codes = best_scales = least = None
    for factor in _SCALE_FACTORS if qmax < 127 else _SCALE_FACTORS[:1]:
        scales = start * factor
        codes = gptq(weight, hessian, scales, qmax, damping)
        difference = codes * scales.unsqueeze(1) - weight
        error = ((difference @ hessian) * difference).sum(1)
        if best_codes is None or best_scales is None or least is None:
            best_codes, best_scales, least = codes, scales, error
            continue
        better = error < least
        best_codes = torch.where(better.unsqueeze(1), codes, best_codes)
        best_scales, least = torch.where(better, scales, best_scales), torch.minimum(error, least)
    assert best_codes is not None and best_scales is not None
    return best_codes, best_scales


def round_settled(weight: torch.Tensor, hessian: torch.Tensor, qmax: int, damping: float) -> Rounded:
    """`gptq_with_scales`, and at less than 8 bits codes and steps in turn made the best beside each other.

    Args:
        weight: float64 [O, K].
        hessian: float64 [K, K], mean of x x^T.
        qmax: Largest code.
        damping: As for `gptq`.
    """
    codes, scales = gptq_with_scales(weight, hessian, qmax, damping)
    if qmax >= 127:
        return Rounded(codes, scales, weight)
    ridge = damping * float(hessian.diagonal().mean()) + 1e-12
    damped, _ = _positive_definite(hessian + ridge * torch.eye(len(hessian), dtype=hessian.dtype))
    for _ in range(_ROUNDS):
        codes, _ = settle(weight, damped, codes, scales, qmax)
        products = codes @ damped
        best = (products * weight).sum(1) / (products * codes).sum(1).clamp_min(1e-300)
        scales = torch.where(best > 0, best, scales)
    codes, alone = settle(weight, damped, codes, scales, qmax)
    return Rounded(codes, scales, alone * scales.unsqueeze(1))


def round_to_nearest(weight: torch.Tensor, hessian: torch.Tensor, qmax: int) -> Rounded:
    """Each weight by itself, on the grid of `weighted_scales`.

    Args:
        weight: float64 [O, K].
        hessian: float64 [K, K], mean of x x^T.
        qmax: Largest code.
    """
    scales = weighted_scales(weight, hessian, qmax)
    return Rounded((weight / scales.unsqueeze(1)).round().clamp(-qmax, qmax), scales, weight)
