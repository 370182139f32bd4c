"""Random rotations."""

from __future__ import annotations

import torch


def random_rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """An orthogonal matrix, evenly distributed over all of them.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups", 2007, section 5.

    Args:
        size: Rows and columns, n.
        generator: Draws it; on the CPU.

    Returns:
        float64 [n, n].
    """
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def mean_keeping_rotation(size: int, generator: torch.Generator) -> torch.Tensor:
    """A random orthogonal Q with Q 1 = 1: what it rotates keeps its mean and its variance.

    Args:
        size: Rows and columns, n.
        generator: Draws it; on the CPU.

    Returns:
        float64 [n, n].
    """
    basis = torch.eye(size, dtype=torch.float64)
    basis[:, 0] = 1
    basis, _ = torch.linalg.qr(basis)  # its first column is the direction of the mean
    rotation = torch.eye(size, dtype=torch.float64)
    rotation[1:, 1:] = random_rotation(size - 1, generator)
    return basis @ rotation @ basis.T
