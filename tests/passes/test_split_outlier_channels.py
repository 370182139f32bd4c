"""Hidden channels with massive activations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.fx import GraphModule
from torch.nn import functional

from models import export, images, plain_model
from packqvit_delegate import CalibrationMethod, QuantizationConfig
from packqvit_delegate import export as export_program
from packqvit_delegate.ops.function import parse
from packqvit_delegate.passes import canonicalize, split_outlier_channels
from packqvit_delegate.passes.graph import aten, constant, find
from packqvit_delegate.passes.integer.linear_rules import MAX_FEATURES
from packqvit_delegate.passes.patterns import UNARY_FUNCTIONS
from packqvit_delegate.passes.split_outlier_channels import (  # type: ignore[attr-defined]
    SHARE,
    choose_bound,
    straight_from,
)

STRAIGHT = ["gelu", "tanh", "quick", "silu", "mish", "relu", "softplus"]
BENT = ["elu", "leaky_relu", "relu6", "sigmoid"]


def model_with_outliers(size: float = 40.0, activation: str = "gelu") -> torch.nn.Module:
    """A micro Vision Transformer whose second block has two hidden channels with massive activations."""
    model = plain_model(activation=activation)
    with torch.no_grad():
        model.blocks[1].fc1.bias[[3, 70]] += torch.tensor([size, size / 2])
        model.blocks[1].fc2.weight[:, [3, 70]] *= 0.05
    return model


def graph(model: torch.nn.Module) -> GraphModule:
    return canonicalize(export(model, images(1)))


def batches(count: int = 8) -> list[tuple[torch.Tensor]]:
    return [(image,) for image in images(count, seed=3).split(1)]


def hidden_channels(module: GraphModule) -> list[int]:
    functions = [node.args[0] for node in find(module, *UNARY_FUNCTIONS)]
    return [constant(module, node.args[1]).shape[0] for node in functions]  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize("activation", STRAIGHT)
def test_only_the_layer_with_outliers_grows_and_the_function_stays(activation: str) -> None:
    module = graph(model_with_outliers(80.0, activation))
    before = copy.deepcopy(module)
    usual = hidden_channels(before)[0]
    split_outlier_channels(module, batches())
    widths = hidden_channels(module)
    assert widths[0] == usual and usual < widths[1] <= usual * (1 + SHARE)
    x = images(1, seed=3)  # one of those that the range was taken from
    with torch.no_grad():
        torch.testing.assert_close(module(x), before(x), rtol=0, atol=0.05 * float(before(x).std()))


@pytest.mark.parametrize("activation", BENT)
def test_functions_that_are_no_ramp_stay(activation: str) -> None:
    module = graph(model_with_outliers(80.0, activation))
    expected = module.code
    split_outlier_channels(module, batches())
    assert module.code == expected


def test_where_functions_become_straight() -> None:
    assert straight_from(functional.gelu, 200.0) == pytest.approx(3, abs=0.1)
    assert straight_from(functional.silu, 200.0) == pytest.approx(6.6, abs=0.1)
    assert straight_from(functional.relu, 200.0) == pytest.approx(200 / 4096)
    assert straight_from(lambda x: x.relu().square(), 200.0) is None
    assert straight_from(lambda x: 2 * x.relu(), 200.0) is None
    assert straight_from(functional.gelu, -1.0) is None


def test_every_channel_stays_within_the_bound() -> None:
    module = graph(model_with_outliers())
    split_outlier_channels(module, batches())
    (node,) = find(module, torch.ops.packqvit.function.default)
    clamp, gelu = parse(str(node.args[1]))
    assert clamp.operator is aten.clamp_max.default and gelu.operator is aten.gelu.default
    bound = float(clamp.args[1])  # type: ignore[arg-type]
    assert bound < 20
    weight = constant(module, node.args[0].args[1])  # type: ignore[union-attr,arg-type]
    bias = constant(module, node.args[0].args[2])  # type: ignore[union-attr,arg-type]
    copies = [index for index in range(len(weight)) if torch.equal(weight[index], weight[3])]
    steps = (bias[copies] - bias[3]) / bound
    torch.testing.assert_close(steps, -torch.arange(len(copies)).float())
    assert len(copies) >= 40 / bound - 1


def test_models_without_outliers_stay_as_they_are() -> None:
    module = graph(plain_model())
    expected = module.code
    split_outlier_channels(module, batches())
    assert module.code == expected


@pytest.mark.parametrize(
    ("largest", "splits"),
    [
        ([2.0] * 63 + [100.0], True),
        ([2.0] * 7 + [100.0], False),  # a sixteenth of 8 channels is none
        ([2.0] * 255 + [40.0], True),
        ([2.0] * 255 + [5.9], False),  # half of it is below what gelu passes on
        ([30.0] * 256, False),
        ([-1.0] * 256, False),
    ],
)
def test_bounds(largest: list[float], splits: bool) -> None:
    tensor = torch.tensor(largest)
    bound = choose_bound(tensor, 3.0)
    assert (bound is not None) == splits
    if bound is not None:
        added = int((torch.ceil(tensor / bound).clamp_min(1) - 1).sum())
        assert 0 < added <= SHARE * len(largest) and bound <= max(largest) / 2


def test_layers_at_the_limit_of_the_kernels_do_not_grow() -> None:
    assert choose_bound(torch.tensor([2.0] * (MAX_FEATURES - 1) + [300.0]), 3.0) is None


@pytest.mark.parametrize("activation", ["gelu", "quick", "silu"])
def test_splitting_makes_the_program_more_accurate_and_can_be_turned_off(activation: str) -> None:
    model = model_with_outliers(80.0, activation)
    x = images(24, seed=3)
    errors = {}
    for split in (True, False):
        method = CalibrationMethod(split_outliers=split)
        config = QuantizationConfig.preset("w4a8")
        program = export_program(model, (x[:1],), x, config=config, method=method)
        assert program.report.is_whole
        with torch.no_grad():
            pairs = [(program.integer_module(image), model(image)) for image in x.split(1)]
        errors[split] = sum(float((a - b).square().mean()) for a, b in pairs)
    assert errors[True] < 0.7 * errors[False]
