"""Activations that no library names: one table each, in calibration, training and the program."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models import MICRO, images, plain_model
from packqvit_delegate import QuantizationConfig, export, qat, runtime
from packqvit_delegate.passes.graph import find
from programs import assert_exact, signal_to_noise
from qat.support import data, method

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "hard_swish": lambda x: x * functional.hardtanh(x + 3, 0, 6) / 6,
    "squared_relu": lambda x: functional.relu(x) ** 2,
    "clamp": lambda x: x.clamp(-1, 2),
    "bent": lambda x: torch.where(x > 0, x, 0.2 * torch.expm1(x)),
}


def model_with(function: Callable[[Tensor], Tensor]) -> nn.Module:
    model = plain_model()
    for block in model.blocks:
        block.__dict__["_activation"] = function
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_any_function_is_a_table(name: str, bits: int) -> None:
    model, x = model_with(ACTIVATIONS[name]), images(8)
    program = export(model, (x[:1],), x, bits=bits, activation_bits=8)
    assert program.report.is_whole, program.report.render()
    assert len(find(program.integer_module, torch.ops.packqvit.lookup_table.default)) == MICRO["depth"]
    assert_exact(program, x[:2])
    found = torch.cat([program.integer_module(image) for image in x.split(1)])
    assert signal_to_noise(model(x).detach(), found) > (20 if bits == 8 else 10)


def test_tables_are_of_float64() -> None:
    """Each entry is the nearest code of the function's value, computed here in float64 from the grids."""
    model, x = model_with(ACTIVATIONS["quick_gelu"]), images(8)
    integer = export(model, (x[:1],), x, bits=8).integer_module
    for node in find(integer, torch.ops.packqvit.lookup_table.default):
        before, after = node.args[0].meta["packqvit_grid"], node.meta["packqvit_grid"]
        values = (torch.arange(-128, 128, dtype=torch.float64) - before.zero_point) * before.scale
        codes = (values / (1 + torch.exp(-1.702 * values)) / after.scale).round() + after.zero_point
        assert torch.equal(integer.get_buffer(str(node.args[1].target)), codes.clamp(-128, 127).to(torch.int8))


def test_a_model_with_one_learns_and_runs_what_was_trained() -> None:
    model, x = model_with(ACTIVATIONS["quick_gelu"]), images(16, seed=1)
    trained = qat.prepare(model, (x[:1],), x, QuantizationConfig(residual="int16"))
    before = {name: value.detach().clone() for name, value in trained.named_parameters()}
    qat.train(trained, data(), teacher=model, method=method(steps=1))
    weights = [name for name in before if name.endswith(".latent")]
    assert weights and not any(torch.equal(trained.get_parameter(name), before[name]) for name in weights)
    program = runtime.load(qat.export(trained).buffer)
    with torch.no_grad():
        assert torch.equal(trained(x[:4]), torch.cat([program.run(image)[0] for image in x[:4].split(1)]))
