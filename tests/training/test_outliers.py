"""Outlier channels that stay alike across blocks."""

from __future__ import annotations

import pytest
import torch

from models import images
from packqvit_delegate import PackQViTError
from packqvit_delegate.quantizer.observers import ChannelShiftObserver
from packqvit_delegate.training import TrainableModel
from packqvit_delegate.training.grids import LearnedChannelShifts
from packqvit_delegate.training.outliers import outlier_consistency
from training.support import calibrated_model


def measured(**config: object) -> tuple[TrainableModel, list[LearnedChannelShifts]]:
    _, prepared = calibrated_model(**config)
    model = TrainableModel(prepared)
    grids = [grid for grid in model.grids.values() if isinstance(grid, LearnedChannelShifts)]
    for grid in grids:
        grid.measures = True
    return model, grids


def test_it_is_the_variance_over_blocks_of_how_much_of_its_grid_a_channel_uses() -> None:
    model, grids = measured(residual="int8")
    inputs: dict[int, torch.Tensor] = {}
    for index, grid in enumerate(grids):
        grid.register_forward_hook(lambda module, args, output, index=index: inputs.update({index: args[0].detach()}))
    model(images(3))
    octaves = []
    for index, grid in enumerate(grids):
        scale, shift = grid._observer[0].scale_and_shift()
        rms = inputs[index].double().square().mean((0, 1)).sqrt()
        octaves.append(rms.log2() - torch.tensor(scale).double().log2() - shift.double())
    expected = torch.stack(octaves).var(0, correction=0).mean()
    assert len(octaves) == 5 and float(expected) > 0.01
    torch.testing.assert_close(outlier_consistency(model).double(), expected, rtol=1e-4, atol=1e-6)


def test_training_brings_the_blocks_together_and_leaves_the_shifts() -> None:
    model, grids = measured(residual="int8")
    shifts = [grid.ratio.clone() for grid in grids]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found = []
    for _ in range(12):
        optimizer.zero_grad()
        model(images(4))
        loss = outlier_consistency(model)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.8 * found[0]
    assert all(torch.equal(grid.ratio, shift) for grid, shift in zip(grids, shifts, strict=True))
    assert all(grid.log_scale.grad is not None and float(grid.log_scale.grad) != 0 for grid in grids)
    observers = [m for m in model.commit([]).modules() if isinstance(m, ChannelShiftObserver)]
    for observer, shift in zip(observers, shifts, strict=True):
        assert torch.equal(torch.exp2(observer.scale_and_shift()[1].float()), shift)


def test_nothing_is_kept_in_evaluation_mode() -> None:
    model, _ = measured(residual="int8")
    model.eval()(images(1))
    with pytest.raises(PackQViTError, match="a forward pass in training mode"):
        outlier_consistency(model)


def test_an_int16_residual_has_no_shifts() -> None:
    model, _ = measured()
    model(images(1))
    with pytest.raises(PackQViTError, match="residual is not int8"):
        outlier_consistency(model)
