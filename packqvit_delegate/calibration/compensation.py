"""What the weights of a linear layer can do about the errors that quantisation made before it."""

from __future__ import annotations

import torch

_INPUT_SHARE = 0.5
_STREAM_SHARE = 0.1
_RIDGE = 0.1
_PRECISION = 1e-6


class Compensation:
    """Weights and a bias that take back a part of what their rounded inputs, and the residual stream, are off.

    With x the inputs in float, x' those that the layer will really get, W its weights, and, for a layer that is added
    into the residual stream, e what the stream lacks of its float value: the weights T of least error

        sum |T x' - (W x' + a W (x - x') + b e)|^2 + r |T - W|^2

    in closed form, from the covariances of x - x' and e with x'. Li et al. ("GPTAQ", arXiv 2504.02692) do the same for
    the term with a, column by column. The shares a and b are below 1, and there is a ridge r (here as a share of the
    mean energy of x'), because the errors of other images are alike only in part: at a = 1, ViT-Tiny is worse off
    than without.
    """

    def __init__(self, outputs: int, channels: int) -> None:
        """Starts with no rows.

        Args:
            outputs: O, of the layer.
            channels: K, its inputs.
        """
        self._weight = 0.0
        self._input = torch.zeros(channels, dtype=torch.float64)
        self._drift = torch.zeros(channels, dtype=torch.float64)
        self._drift_products = torch.zeros(channels, channels, dtype=torch.float64)
        self._lack = torch.zeros(outputs, dtype=torch.float64)
        self._lack_products = torch.zeros(outputs, channels, dtype=torch.float64)

    def add(
        self,
        x: torch.Tensor,
        float_x: torch.Tensor,
        lack: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
    ) -> None:
        """Takes rows.

        Args:
            x: float32 [..., K], inputs as rounded.
            float_x: float32 [..., K], inputs of the float model.
            lack: float32 [..., O], the stream of the float model minus the stream; None: the layer joins none.
            weight: float32 [...], how much each row counts; None: 1.
        """
        x, float_x = x.flatten(0, -2), float_x.flatten(0, -2)
        w = torch.ones(x.shape[0], 1) if weight is None else weight.reshape(-1, 1)
        weighted, drift = x * w, float_x - x
        self._weight += float(w.sum())
        self._input += weighted.sum(0)
        self._drift += (drift * w).sum(0)
        self._drift_products += drift.T @ weighted
        if lack is not None:
            lack = lack.flatten(0, -2)
            self._lack += (lack * w).sum(0)
            self._lack_products += lack.T @ weighted

    def weight(self, weight: torch.Tensor, hessian: torch.Tensor, centred: bool) -> torch.Tensor:
        """T.

        Args:
            weight: float64 [O, K], W.
            hessian: float64 [K, K], mean of x' x'^T, without its mean where `centred`.
            centred: Whether a bias takes the means.

        Returns:
            float64 [O, K].
        """
        target = (_INPUT_SHARE * (weight @ self._drift_products) + _STREAM_SHARE * self._lack_products) / self._weight
        if centred:
            target -= torch.outer(self._means(weight), self._input) / self._weight**2
        # Inputs that hardly differ leave nothing but rounding errors of their means.
        precision = _PRECISION * float((self._input / self._weight).square().mean())
        ridge = max(_RIDGE * float(hessian.diagonal().mean()), precision) + 1e-12
        system = hessian + ridge * torch.eye(len(hessian), dtype=hessian.dtype)
        return weight + torch.linalg.solve(system, target.T).T

    def bias(self, weight: torch.Tensor) -> torch.Tensor:
        """What the bias takes back of the means: the same shares, so that it is the least of the same sum.

        All of what the inputs' mean is off would be the other choice, as other images have it in common: too much.

        Args:
            weight: float64 [O, K], W.

        Returns:
            float64 [O].
        """
        return self._means(weight) / self._weight

    def _means(self, weight: torch.Tensor) -> torch.Tensor:
        """Sum over all rows of what the shares leave to make up for, float64 [O]."""
        return _INPUT_SHARE * (weight @ self._drift) + _STREAM_SHARE * self._lack
