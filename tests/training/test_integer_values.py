"""Training on the values of the integer operators: the model's output is that of the program, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from end_to_end.test_outputs import CHEAP, MAPS_AND_EMBEDDINGS, OUTPUTS, Features
from models import images, plain_model, randomize
from packqvit_delegate import PackQViTError
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.config import QuantizationConfig
from packqvit_delegate.models import SwinConfig, SwinTransformer
from packqvit_delegate.passes import float_operators, lower_to_integer
from packqvit_delegate.preparation import make_pair
from packqvit_delegate.training import TrainableModel
from packqvit_delegate.training.grids import LearnedAffine, WideResidual
from training.support import calibrated_model

CONFIG = QuantizationConfig()
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "w4a4": {},
    "w8a8 linear probabilities": {"weight_bits": 8, "activation_bits": 8, "probabilities": "linear"},
    "w4a8, 240 levels": {"activation_bits": 8, "activation_levels": 240},
    "int8 residual": {"residual": "int8"},
    "pixels": {"input_normalization": ((0.5,) * 3, (0.4, 0.5, 0.6))},
}


def program_of(model: TrainableModel, x: torch.Tensor) -> torch.Tensor:
    """The answers of the integer graph, one image after another."""
    integer = lower_to_integer(convert_pt2e(copy.deepcopy(model.commit([x]))))
    with torch.no_grad():
        return torch.cat([integer(image) for image in x.split(1)])


def trained(steps: int = 5, **config: Any) -> tuple[TrainableModel, torch.Tensor]:
    _, prepared = calibrated_model(**config)
    model, x = TrainableModel(prepared, integer_functions=True), images(6, seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 3.0).square().mean().backward()
        optimizer.step()
    return model.eval(), x


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_output_is_that_of_the_program_bit_for_bit(name: str) -> None:
    model, x = trained(**CONFIGURATIONS[name])
    expected = program_of(model, x)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
        model.integer_functions = False
        assert not torch.equal(model(x), expected)


def test_gradients_are_those_of_the_float_functions() -> None:
    """Where both modes round to the same codes there is no difference, elsewhere a small one."""
    _, prepared = calibrated_model(weight_bits=8, activation_bits=8, probabilities="linear")
    model, x = TrainableModel(prepared), images(4, seed=2)
    found = []
    for model.integer_functions in (False, True):
        model.zero_grad()
        (model(x) - 1.0).square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        found.append(torch.cat([p.grad.flatten() for n, p in model.named_parameters() if "learned" in n]))  # type: ignore[union-attr]
    assert not torch.equal(*found)
    assert float(torch.nn.functional.cosine_similarity(*found, dim=0)) > 0.99


def test_autocast_does_not_touch_the_integers() -> None:
    model, x = trained(steps=1)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(x).float(), exact)


def test_a_batch_gives_what_its_images_give_alone() -> None:
    model, x = trained(steps=1, residual="int8")
    with torch.no_grad():
        assert torch.equal(model(x), torch.cat([model(image) for image in x.split(1)]))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_models_that_pool_and_programs_for_batches(batch_size: int) -> None:
    x = images(4, seed=1)
    example = (x[:batch_size],)
    plain = plain_model(pool="mean", embedding="none", attention="masked")
    prepared = make_pair(plain, example, Batches(x, example), CONFIG).prepared
    model = TrainableModel(prepared, batch_size, integer_functions=True).eval()
    integer = lower_to_integer(convert_pt2e(copy.deepcopy(model.commit([]))))
    with torch.no_grad():
        assert torch.equal(model(x), torch.cat([integer(part) for part in x.split(batch_size)]))


def test_a_residual_that_outgrows_calibration_is_followed_in_training_only() -> None:
    _, prepared = calibrated_model()
    model = TrainableModel(prepared, integer_functions=True)
    grids = [grid for grid in model.grids.values() if isinstance(grid, WideResidual)]

    def bounds() -> list[float]:
        return [float(grid.bound) for grid in grids]

    before = bounds()
    with torch.no_grad():
        model.eval()(20 * images(1))
        assert bounds() == before
        model.train()(20 * images(1))
    assert all(new >= old for new, old in zip(bounds(), before, strict=True)) and bounds() != before


def test_what_has_no_integer_operator_stays_in_float() -> None:
    """A linear between two blocks whose result nobody quantises: what follows goes on from float values."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = plain_model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            m = self.model
            x = m._embed(m.patch(x))
            x = torch.sin(m.blocks[0](x))
            return m.head(m.norm(m.blocks[1](x))[:, 0])

    x = images(8, seed=1)
    prepared = make_pair(Odd(), (x[:1],), Batches(x, (x[:1],)), CONFIG).prepared
    model = TrainableModel(prepared, integer_functions=True).eval()
    integer = lower_to_integer(convert_pt2e(copy.deepcopy(prepared)))
    assert float_operators(integer)
    with torch.no_grad():
        found, expected = model(x), torch.cat([integer(image) for image in x.split(1)])
    assert (found - expected).abs().mean() < 0.05 * expected.std()


def test_a_scale_that_ran_away_is_an_error() -> None:
    _, prepared = calibrated_model()
    model = TrainableModel(prepared, integer_functions=True)
    grid = next(grid for grid in model.grids.values() if isinstance(grid, LearnedAffine))
    with torch.no_grad():
        grid.log_scale.fill_(-1000.0)
    with pytest.raises(PackQViTError, match="a learned scale has become 0.0; lower the learning rates"):
        model(images(1))


@pytest.mark.parametrize(("size", "residual"), [(32, "int16"), (36, "int8")])
def test_windows_masks_and_pads(size: int, residual: str) -> None:
    config = SwinConfig(image_size=size, window=4, dim=16, heads=2, depths=(2, 1), num_classes=5)
    prepared = make_pair(
        randomize(SwinTransformer(config)),
        (images(1, size),),
        Batches([images(8, size)], (images(1, size),)),
        QuantizationConfig(residual=residual),
        None,
        None,
    ).prepared
    model, x = TrainableModel(prepared, integer_functions=True), images(3, size, seed=2)
    (model(x) - 3.0).square().mean().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    expected = program_of(model.eval(), x)
    with torch.no_grad():
        assert torch.equal(model(x), expected)


@pytest.mark.parametrize("name", ["two_heads", "mean_then_norm", "normalised", "map_of_logits"])
def test_outputs_that_are_no_logits(name: str) -> None:
    x, config = images(8), QuantizationConfig.preset("w8a8")
    model = Features({**OUTPUTS, **MAPS_AND_EMBEDDINGS}[name]).eval()
    pair = make_pair(model, (x[:1],), Batches(x, (x[:1],)), config, CHEAP)
    trainable = TrainableModel(pair.prepared, integer_functions=True).eval()
    expected = program_of(trainable, x)  # decides the ranges of 16 bits
    with torch.no_grad():
        assert torch.equal(trainable(x), expected)
