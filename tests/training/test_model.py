"""Calibrated models that train."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from models import images, plain_model
from packqvit_delegate import PackQViTError
from packqvit_delegate.passes import lower_to_integer
from packqvit_delegate.passes.graph import aten, find
from packqvit_delegate.passes.originals import original_of
from packqvit_delegate.quantizer.observers import (
    ChannelShiftObserver,
    ClippingObserver,
    CodeObserver,
    Int16ResidualObserver,
    WeightObserver,
)
from packqvit_delegate.training import TrainableModel
from packqvit_delegate.training.grids import LearnedWeight, WideResidual, learned_grid
from training.support import calibrated_model

CONFIGURATIONS = {
    "w4a4": {},
    "w8a8 linear probabilities": {"weight_bits": 8, "activation_bits": 8, "probabilities": "linear"},
    "int8 residual": {"residual": "int8"},
    "pixels": {"input_normalization": ((0.5,) * 3, (0.5,) * 3)},
}


def grids(prepared: GraphModule) -> dict[str, list[torch.Tensor]]:
    """Scales, zero points and weight codes of all observers, by name."""
    found = {}
    for name, observer in prepared.named_modules():
        if isinstance(observer, CodeObserver):
            found[name] = [value.double() for value in observer.calculate_qparams()]
            if isinstance(observer, WeightObserver):
                weight, _ = observer.rounded_and_source()
                scale = observer.scales().reshape(-1, *[1] * (weight.ndim - 1))
                found[name].append((weight / scale).round().double())
    return found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_without_training_everything_stays_as_calibrated(name: str) -> None:
    _, prepared = calibrated_model(**CONFIGURATIONS[name])
    before = grids(prepared)
    after = grids(TrainableModel(prepared).commit([]))
    assert before.keys() == after.keys()
    for observer in before:
        for old, new in zip(before[observer], after[observer], strict=True):
            torch.testing.assert_close(new, old, rtol=5e-3, atol=0)


def test_ranges_of_int16_residuals_are_those_of_the_images_given() -> None:
    _, prepared = calibrated_model()
    model, largest = TrainableModel(prepared), {}
    x = images(16, seed=3)
    for name, grid in model.grids.items():
        if isinstance(grid, WideResidual):
            grid.register_forward_hook(lambda _, inputs, __, name=name: largest.update({name: inputs[0].abs().max()}))
    model(x)
    committed = model.commit([x.mul(0), x])
    observers = {n: m for n, m in committed.named_modules() if isinstance(m, Int16ResidualObserver)}
    assert len(observers) == len(largest) > 0
    for name, observer in observers.items():
        assert torch.equal(observer.bound.reshape(()), largest[name])


@pytest.mark.parametrize(("config", "changes"), [({}, True), ({"weight_bits": 4, "activation_bits": 8}, False)])
def test_narrow_activations_left_unrounded(config: dict[str, int], changes: bool) -> None:
    _, prepared = calibrated_model(**config)
    model, x = TrainableModel(prepared), images(4, seed=3)
    rounded = model(x)

    def answer() -> torch.Tensor:
        model.leave_unrounded(0.5, torch.Generator().manual_seed(0))
        return model(x)

    assert torch.equal(answer(), answer())  # the generator decides
    assert torch.equal(answer(), rounded) != changes
    model.eval()
    assert torch.equal(model(x), rounded)
    model.train().leave_unrounded(0.0, torch.Generator())
    assert torch.equal(model(x), rounded)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_what_trains_is_what_runs(name: str) -> None:
    """After some steps the integer program answers like the model that was trained, not like the calibrated one."""
    float_module, prepared = calibrated_model(**CONFIGURATIONS[name])
    x = images(8, seed=2)
    calibrated_answer = TrainableModel(prepared)(x).detach()
    model = TrainableModel(prepared)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(6):
        optimizer.zero_grad()
        (model(x) - 3.0).square().mean().backward()
        optimizer.step()
    trained_answer = model(x).detach()
    assert all(original_of(linear) is not None for linear in find(prepared, aten.linear.default))
    committed = model.commit([x])
    assert all(original_of(linear) is None for linear in find(committed, aten.linear.default))
    torch.testing.assert_close(TrainableModel(committed)(x).detach(), trained_answer, rtol=0, atol=0.05)
    integer = lower_to_integer(convert_pt2e(committed))
    with torch.no_grad():
        answer = torch.cat([integer(image) for image in x.split(1)])
    moved = (trained_answer - calibrated_answer).square().mean()
    assert (answer - trained_answer).square().mean() < 0.1 * moved


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_gives_what_its_images_give_alone(batch_size: int) -> None:
    _, prepared = calibrated_model(batch_size)
    model = TrainableModel(prepared, batch_size)
    x = images(5, seed=4)
    with torch.no_grad():
        together, alone = model(x), torch.cat([model(image) for image in x.split(1)])
    # Sums in another order cross a rounding border here and there.
    assert (together - alone).abs().mean() < 0.05 * alone.std()


def test_every_kind_of_parameter_learns() -> None:
    _, prepared = calibrated_model(residual="int8")
    model = TrainableModel(prepared)
    model(images(2)).square().mean().backward()
    silent = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not silent
    kinds = {name.split(".")[-1] for name, _ in model.named_parameters() if name.startswith("grids.")}
    assert kinds == {"latent", "log_scale"}
    assert any("norm" in name for name in model.learned) and any("bias" in name for name in model.learned)


def test_the_users_model_stays_as_it_was() -> None:
    model = plain_model()
    before = copy.deepcopy(model.state_dict())
    _, prepared = calibrated_model()
    trainable = TrainableModel(prepared)
    with torch.no_grad():
        for parameter in trainable.parameters():
            parameter.add_(0.1)
    trainable.commit([images(4)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_shifts_of_outlier_channels_do_not_move() -> None:
    _, prepared = calibrated_model(residual="int8")

    def shifts() -> list[torch.Tensor]:
        observers = [m for m in prepared.modules() if isinstance(m, ChannelShiftObserver)]
        return [observer.scale_and_shift()[1].clone() for observer in observers]

    before = shifts()
    model = TrainableModel(prepared)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(3):
        model(images(2)).square().mean().backward()
        optimizer.step()
    model.commit([images(2)])
    assert before and all(torch.equal(a, b) for a, b in zip(before, shifts(), strict=True))


def test_latent_weights_start_at_the_calibrated_codes_and_lean_to_the_float_weights() -> None:
    _, prepared = calibrated_model()
    grids = [grid for grid in TrainableModel(prepared).grids.values() if isinstance(grid, LearnedWeight)]
    assert all(float((grid.latent.detach() - grid.codes()).abs().max()) <= 0.4501 for grid in grids)
    assert all(float((grid.latent.detach() - grid.codes()).abs().mean()) > 0.01 for grid in grids)


def test_values_that_are_not_finite_are_refused_and_found() -> None:
    _, prepared = calibrated_model()
    model = TrainableModel(prepared)
    assert model.first_non_finite(images(1)) is None
    name = next(name for name in model.learned if "blocks__1" in name and "fc2__bias" in name)
    with torch.no_grad():
        model.learned[name].fill_(float("nan"))
    assert "blocks.1.fc2.bias" in str(model.first_non_finite(images(1)))
    with pytest.raises(PackQViTError, match=f"{name}.*learning rates"):
        model.commit([images(1)])


def test_an_observer_of_another_kind_is_named() -> None:
    class Other(CodeObserver):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

        def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(1), torch.zeros(1)

        def fake_quantize(self, x: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(PackQViTError, match="Other has no counterpart that trains"):
        learned_grid(Other())
    observer = ClippingObserver(bounds=(-1.0, 10.0))
    observer(torch.linspace(-3, 20, 64).reshape(-1, 4))
    assert isinstance(learned_grid(observer), nn.Module)
