"""Norms inside the attention and the MLP, as BEiT v3 and EVA02 have them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import images, plain_model
from packqvit_delegate import QuantizationConfig, export
from programs import assert_whole_and_exact, signal_to_noise


class InnerNorm(nn.Module):
    """A linear layer behind a LayerNorm."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(linear.in_features), linear
        nn.init.normal_(self.norm.weight, 1, 0.3)
        nn.init.normal_(self.norm.bias, 0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x))


@pytest.mark.parametrize(("preset", "least"), [("w8a8", 25), ("w4a8", 10), ("w4a4", 4)])
def test_whole_and_exact(preset: str, least: float) -> None:
    torch.manual_seed(0)
    model = plain_model()
    for block in model.blocks:
        block.fc2 = InnerNorm(block.fc2)
        block.attention.proj = InnerNorm(block.attention.proj)
    x, tests = images(16), images(4, seed=5)
    program = export(model, (x[:1],), x, config=QuantizationConfig.preset(preset))
    (found,) = assert_whole_and_exact(program, tests)
    assert signal_to_noise(model(tests).detach(), found) > least
