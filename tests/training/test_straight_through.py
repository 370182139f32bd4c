"""Rounding with gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from packqvit_delegate.training.straight_through import round_probabilities, round_to_grid


def written_out(x: Tensor, scale: Tensor, low: int, high: int) -> tuple[Tensor, Tensor, Tensor]:
    """Value and gradients for an upstream gradient of ones: LSQ's equations, element by element."""
    position = x / scale
    codes = position.round().clamp(low, high)
    inside = (position.round() >= low) & (position.round() <= high)
    by_scale = torch.where(inside, position.round() - position, codes)
    return codes * scale, inside.float(), by_scale


@pytest.mark.parametrize("scale_shape", [(), (1,), (6,), (5, 1)])
def test_values_and_gradients_are_those_of_learned_step_size_quantization(scale_shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (4 * torch.randn(5, 6, generator=generator)).requires_grad_()
    scale = (0.2 + torch.rand(scale_shape, generator=generator)).requires_grad_()
    result = round_to_grid(x, scale, -3, 4)
    result.sum().backward()
    value, x_gradient, by_scale = written_out(x.detach(), scale.detach(), -3, 4)
    torch.testing.assert_close(result.detach(), value)
    torch.testing.assert_close(x.grad, x_gradient)
    torch.testing.assert_close(scale.grad, by_scale.sum_to_size(scale_shape))
    assert 0 < int(x_gradient.sum()) < x.numel()  # some are clipped, some are not


def test_values_left_unrounded_are_clipped_all_the_same() -> None:
    x = torch.tensor([[0.3, 5.0, -0.7], [0.3, 5.0, -0.7]], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    result = round_to_grid(x, scale, -1, 3, torch.tensor([[True], [False]]))
    torch.testing.assert_close(result.detach(), torch.tensor([[0.3, 1.5, -0.5], [0.5, 1.5, -0.5]]))
    result.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[1.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    # Unrounded 0, 3 and -1; rounded round(0.6) - 0.6, 3 and round(-1.4) + 1.4.
    torch.testing.assert_close(scale.grad, torch.tensor(0.0 + 3 - 1 + 0.4 + 3 + 0.4))


def test_a_scale_that_does_not_learn_gets_no_gradient() -> None:
    x = torch.tensor([0.3, 5.0], requires_grad=True)
    scale = torch.tensor(0.5)
    round_to_grid(x, scale, -2, 2).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0]
    assert scale.grad is None


@pytest.mark.parametrize("log2", [True, False])
def test_probabilities_lie_on_the_grid_of_their_codes(log2: bool) -> None:
    x = torch.cat([torch.zeros(1), torch.ones(1), 2.0 ** -torch.linspace(0, 20, 400)]).requires_grad_()
    result = round_probabilities(x, log2)
    codes = torch.ops.packqvit.quantize_probabilities(x.detach(), log2)
    assert torch.equal(result.detach(), torch.ops.packqvit.dequantize_probabilities(codes, log2))
    result.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones_like(x))
