"""Masks that only keep groups of tokens apart, as those of shifted windows do."""

from __future__ import annotations

import torch

MASKED = 80.0
"""What is so far below a query's best key is masked: scores do not make up for it."""


def split_mask(bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Takes a mask of groups out of what is added to the scores of an attention.

    A mask is one of groups if in each window the tokens fall into groups of which each sees its own only, the same for
    all heads, and what is left is the same in all windows. Any other bias stays as it is.

    Args:
        bias: float64 [B, H, N, N], finite; B counts the windows of all images.

    Returns:
        What is left, [1, H, N, N], and the group of each token, uint8 [W, N], where window b has row b mod W. Or the
        bias, and None.
    """
    batch, _, queries, keys = bias.shape
    is_masked = bias < bias.amax(-1, keepdim=True) - MASKED
    if queries != keys or queries > 256 or not bool(is_masked.any()):
        return bias, None
    seen = ~is_masked[:, 0]
    groups = seen.to(torch.uint8).argmax(-1)  # the first token that a token sees
    is_grouped = torch.equal(groups.unsqueeze(-1) == groups.unsqueeze(-2), seen)
    if not is_grouped or not torch.equal(is_masked, is_masked[:, :1].expand_as(is_masked)):
        return bias, None
    lowest = torch.finfo(bias.dtype).min
    shared = bias.masked_fill(is_masked, lowest).amax(0, keepdim=True)
    if not torch.equal(bias.masked_fill(is_masked, 0.0), shared.expand_as(bias).masked_fill(is_masked, 0.0)):
        return bias, None
    divisors = (n for n in range(1, batch + 1) if batch % n == 0)
    period = next(n for n in divisors if torch.equal(groups, groups[:n].repeat(batch // n, 1)))
    return shared.masked_fill(shared == lowest, 0.0), groups[:period].to(torch.uint8)
