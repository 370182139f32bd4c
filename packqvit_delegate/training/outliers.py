"""Keeps outlier channels of the residual stream alike across blocks while a model trains."""

from __future__ import annotations

import torch

from ..errors import PackQViTError
from .grids import LearnedChannelShifts
from .model import TrainableModel

_TINY = 1e-12


def outlier_consistency(model: TrainableModel) -> torch.Tensor:
    """How differently the channels of an int8 residual use their grids in different blocks.

    Channel c of addition b is stored in steps of s_b * 2^k[b, c]; k was fixed in advance, s_b is learned. How much of
    its grid it uses is, in octaves,

        u[b, c] = log2(rms over images and tokens of x_b[.., c]) - log2(s_b) - k[b, c]

    and the result is the mean over c of the variance of u[., c] over b. It is small when a channel that was predicted
    to be an outlier stays one by as much in every block, and no other channel becomes one: what its fixed shift is for.
    The gradient reaches the values and the base scales.

    Source: PackQViT, NeurIPS 2023, regularises the scales of outlier channels that it predicts in advance; it does not
    publish the formula, and this one is the project's own.

    Args:
        model: After a forward pass in training mode, of which it takes the values.

    Returns:
        float32 [], octaves squared.

    Raises:
        PackQViTError: The model's residual is not int8, or nothing has passed through it in training mode.
    """
    grids = [grid for grid in model.grids.values() if isinstance(grid, LearnedChannelShifts)]
    by_width: dict[int, list[torch.Tensor]] = {}
    for grid in grids:
        if grid.mean_square is None:
            raise PackQViTError("outlier_consistency needs a forward pass in training mode first")
        used = 0.5 * (grid.mean_square + _TINY).log2() - (grid.log_scale.exp() * grid.ratio).log2()
        by_width.setdefault(used.numel(), []).append(used)
    compared = [torch.stack(used) for used in by_width.values() if len(used) > 1]
    if not compared:
        raise PackQViTError(
            "there are no channel shifts to keep alike: the model's residual is not int8 (residual='int8' in its "
            "configuration), or it has a single block"
        )
    return torch.cat([used.var(0, correction=0) for used in compared]).mean()
