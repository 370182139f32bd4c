"""Positions that only the patches bring back into the residual stream's range."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from models import images, plain_model
from packqvit_delegate import QuantizationConfig, quantize


def _model_with_opposite_offsets(size: float, varying: bool) -> nn.Module:
    """A channel in which bias and position are `size` times the rest, with opposite signs; the function stays."""
    model = plain_model(embedding="none", pool="mean")
    with torch.no_grad():
        channel = torch.zeros(model.position.shape[1])
        channel[:] = size
        if varying:  # per position too: no bias could hold it
            channel += torch.linspace(-0.1, 0.1, len(channel))
        model.patch.bias[3] -= size
        model.position[0, :, 3] += channel
    return model


@pytest.mark.parametrize("residual", ["int8", "int16"])
@pytest.mark.parametrize(("size", "varying"), [(60.0, False), (-200.0, True)])
def test_a_position_beyond_the_stream_does_not_saturate_by_itself(residual: str, size: float, varying: bool) -> None:
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), residual=residual)
    model, batch = _model_with_opposite_offsets(size, varying), images(8)
    integer = quantize(model, (batch[:1],), batch, config)
    with torch.no_grad():
        real, found = model(batch[:1]), integer(batch[:1])
    assert float(10 * torch.log10(real.square().sum() / (real - found).square().sum())) > 20
