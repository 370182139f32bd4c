"""Observers' grids as modules that learn."""

from __future__ import annotations

import abc

import torch
from torch import nn

from ..errors import CalibrationError, PackQViTError
from ..grids import AffineGrid, Grid, OffsetGrid, ResidualGrid
from ..grids import ProbabilityGrid as ProbabilityCodes
from ..quantizer.observers import (
    AffineObserver,
    ChannelShiftObserver,
    CodeObserver,
    Int16ResidualObserver,
    PixelObserver,
    ProbabilityObserver,
    WeightObserver,
)
from ..row_sample import NOT_FINITE
from .straight_through import log_scale, round_probabilities, round_to_grid


class LearnedGrid(nn.Module, abc.ABC):
    """The trained counterpart of an observer whose grid is decided."""

    @abc.abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to the grid: float32 of x's shape."""

    def integer_grid(self) -> Grid | None:
        """The grid as it would be exported now; None for weights.

        Raises:
            PackQViTError: A learned scale has become 0 or infinite.
        """
        return None

    def commit(self) -> None:
        """Hands what was learned to the observer, which convert_pt2e asks. Grids that learn nothing have no need to."""


class LearnedAffine(LearnedGrid):
    """An affine grid per tensor: the scale is learned, the zero point stays, so that 0 keeps its code.

    Attributes:
        log_scale: float32 [], natural logarithm of the scale.
        unrounded: In training mode this share of the tokens, drawn anew each time, is clipped but not rounded.
        generator: Draws them; on the CPU.
    """

    def __init__(self, observer: AffineObserver) -> None:
        """Starts from the observer's grid."""
        super().__init__()
        self._observer = [observer]  # a list hides it from nn.Module: it is no part of the model
        scale, self.zero_point = observer.affine_pair()
        self.low, self.high = observer.quant_min - self.zero_point, observer.quant_max - self.zero_point
        self.log_scale = nn.Parameter(log_scale(scale))
        self.unrounded = 0.0
        self.generator: torch.Generator | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X [..., C] rounded to the grid."""
        chosen = None
        if self.training and self.unrounded > 0:
            chosen = (torch.rand(*x.shape[:-1], 1, generator=self.generator) < self.unrounded).to(x.device)
        return round_to_grid(x, self.log_scale.exp(), self.low, self.high, chosen)

    @property
    def narrow(self) -> bool:
        """Whether the codes have less than 8 bits."""
        return self._observer[0].narrow

    def integer_grid(self) -> AffineGrid:
        """Scale, zero point and codes."""
        observer = self._observer[0]
        return AffineGrid(_scale(self.log_scale), self.zero_point, observer.quant_min, observer.quant_max)

    def commit(self) -> None:
        """Hands over scale and zero point."""
        self._observer[0].fix(float(self.log_scale.detach().exp()), self.zero_point)


class LearnedChannelShifts(LearnedGrid):
    """An int8 residual grid: the base scale is learned, the shift of each channel was fixed in advance.

    Source: PackQViT, NeurIPS 2023, outlier-aware training.

    Attributes:
        log_scale: float32 [], natural logarithm of the base scale.
        ratio: float32 [C], 2^shift; a buffer.
        mean_square: float32 [C], of what came in last in training mode, over images and tokens, with its gradient.
    """

    ratio: torch.Tensor
    mean_square: torch.Tensor | None

    def __init__(self, observer: ChannelShiftObserver) -> None:
        """Starts from the observer's grid."""
        super().__init__()
        self._observer = [observer]
        scale, shift = observer.scale_and_shift()
        self._shift = shift
        self.low, self.high = observer.quant_min, observer.quant_max
        self.log_scale = nn.Parameter(log_scale(scale))
        self.register_buffer("ratio", torch.exp2(shift.float()))
        self.mean_square = None
        self.measures = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X [..., C] rounded to the grid; `mean_square` is taken while `measures` is set."""
        if self.measures and self.training:
            self.mean_square = x.float().square().flatten(0, -2).mean(0)
        return round_to_grid(x, self.log_scale.exp() * self.ratio, self.low, self.high)

    def integer_grid(self) -> Grid:
        """Base scale and shifts, brought to a smallest shift of 0."""
        least = int(self._shift.min())
        return ResidualGrid(_scale(self.log_scale) * 2.0**least, self._shift - least, torch.int8)

    def commit(self) -> None:
        """Hands over the base scale, with the shifts that it came with."""
        self._observer[0].fix(float(self.log_scale.detach().exp()), self._shift)


class LearnedWeight(LearnedGrid):
    """A symmetric grid per output channel, and the weights on it.

    Attributes:
        latent: float32 [O, ...], weights in steps; the codes are these, rounded.
        log_scale: float32 [O, 1, ...], natural logarithm of the steps.
    """

    def __init__(self, observer: WeightObserver) -> None:
        """Starts from the observer's codes.

        Latent weights start where calibration would leave each were it alone not rounded, but not beyond what rounds
        to the code that it chose: codes start as calibrated, and those that it was torn about change first.
        """
        super().__init__()
        self._observer = [observer]
        self.qmax = observer.quant_max
        weight, source = observer.rounded_and_source()
        scale = observer.scales().reshape(-1, *[1] * (weight.ndim - 1))
        codes = (weight / scale).round().clamp(-self.qmax, self.qmax)
        self.latent = nn.Parameter(codes + (source / scale - codes).clamp(-_TORN, _TORN))
        self.log_scale = nn.Parameter(scale.log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The weights on their grid; x, the weights before training, is not looked at."""
        codes = self.codes()
        return (self.latent + (codes - self.latent).detach()) * self.log_scale.exp()

    def codes(self) -> torch.Tensor:
        """float32 [O, ...], integers in [-qmax, qmax]."""
        return self.latent.detach().round().clamp(-self.qmax, self.qmax)

    @torch.no_grad()
    def commit(self) -> None:
        """Hands over codes and scales."""
        scale = self.log_scale.exp()
        weight = self.codes() * scale
        self._observer[0].fix(weight.cpu(), scale.flatten().cpu())


_TORN = 0.45
"""Latent weights start at most this many steps away from their code."""


class PixelGrid(LearnedGrid):
    """The bytes of an image; nothing to learn, and no gradient for the image."""

    offset: torch.Tensor

    def __init__(self, observer: PixelObserver) -> None:
        """Takes the observer's grid."""
        super().__init__()
        self.scale, self.low, self.high = observer.scale, observer.quant_min, observer.quant_max
        self.register_buffer("offset", torch.tensor(observer.offset).reshape(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X [B, C, H, W] rounded to the grid."""
        return ((x - self.offset) / self.scale).round().clamp(self.low, self.high) * self.scale + self.offset

    def integer_grid(self) -> Grid:
        """Step and offsets, as float32 holds them."""
        return OffsetGrid(float(torch.tensor(self.scale)), self.offset.flatten().double().cpu())


class ProbabilityGrid(LearnedGrid):
    """Codes of attention probabilities, with a straight-through gradient; nothing to learn."""

    def __init__(self, observer: ProbabilityObserver) -> None:
        """Takes the observer's grid."""
        super().__init__()
        self.log2 = observer.log2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X rounded to the grid."""
        return round_probabilities(x, self.log2)

    def integer_grid(self) -> Grid:
        """What the codes mean."""
        return ProbabilityCodes(self.log2)


class WideResidual(LearnedGrid):
    """An int16 residual: fine enough for its gradient to pass as if it were not rounded.

    Its range is observed, not learned.

    Attributes:
        bound: float32 [1], the largest magnitude that was observed; a buffer.
    """

    bound: torch.Tensor

    def __init__(self, observer: Int16ResidualObserver) -> None:
        """Starts from the observer's range."""
        super().__init__()
        self._observer = [observer]
        self.register_buffer("bound", observer.bound.clone())
        self.observes = self.follows = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X, observed while `observes` is set, or `follows` in training mode."""
        if self.observes or (self.follows and self.training):
            torch.maximum(self.bound, x.detach().abs().amax(), out=self.bound)
        return x

    def forget(self) -> None:
        """Empties the range."""
        self.bound.zero_()

    def integer_grid(self) -> Grid:
        """The step of the range and its margin."""
        self.commit()
        return ResidualGrid(float(self._observer[0].channel_scales()), None, torch.int16)

    def commit(self) -> None:
        """Hands over the range."""
        if not bool(torch.isfinite(self.bound)):
            raise CalibrationError(NOT_FINITE)
        self._observer[0].bound = self.bound.cpu().clone()


def _scale(logarithm: torch.Tensor) -> float:
    scale = float(logarithm.detach().exp())
    if not 0 < scale < float("inf"):
        raise PackQViTError(f"a learned scale has become {scale}; lower the learning rates")
    return scale


_GRIDS: tuple[tuple[type[CodeObserver], type[LearnedGrid]], ...] = (
    (AffineObserver, LearnedAffine),
    (WeightObserver, LearnedWeight),
    (ChannelShiftObserver, LearnedChannelShifts),
    (PixelObserver, PixelGrid),
    (ProbabilityObserver, ProbabilityGrid),
    (Int16ResidualObserver, WideResidual),
)


def learned_grid(observer: CodeObserver) -> LearnedGrid:
    """The counterpart of an observer.

    Raises:
        PackQViTError: There is none for this kind.
    """
    for kind, grid in _GRIDS:
        if isinstance(observer, kind):
            return grid(observer)
    known = ", ".join(kind.__name__ for kind, _ in _GRIDS)
    raise PackQViTError(f"{type(observer).__name__} has no counterpart that trains; these have: {known}")
