"""The search for layers with 8 bits, what it costs, and the file that it is written into."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from models import CASES, Tower, images, plain_model
from packqvit_delegate import CalibrationMethod, LayerOverride, PackQViTError, QuantizationConfig, export
from packqvit_delegate.answers import divergence
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.passes.graph import constant
from packqvit_delegate.sensitivity import Limits, MixedPrecision, Pair, analyze, make_pair, suggest, suggest_for
from packqvit_delegate.sensitivity.search import Budget, select
from packqvit_delegate.sensitivity.simulation import Simulation
from packqvit_delegate.sensitivity.widths import Choice, choices, size_of

W4A4 = QuantizationConfig.preset("w4a4")


def wounded_model() -> nn.Module:
    """One hidden channel of block 1 is massive and says nothing: at 4 bits it takes the codes of all others."""
    model = plain_model()
    block = model.blocks[1]
    with torch.no_grad():
        block.fc1.bias[5] = 60.0
        block.fc2.weight[:, 5] = 0.03 * torch.randn(48, generator=torch.Generator().manual_seed(0))
    return model


AS_GIVEN = CalibrationMethod(split_outliers=False, rotation=False)
"""The wound is to be found here, not healed."""


def pair_of(model: nn.Module, config: QuantizationConfig = W4A4) -> tuple[Pair, Batches]:
    batches = Batches(images(8, seed=1), (images(1),))
    return make_pair(model, (images(1),), batches, config, AS_GIVEN), batches


@pytest.fixture(scope="module")
def wounded() -> tuple[Pair, Batches]:
    return pair_of(wounded_model())


def test_choices_and_their_costs(wounded) -> None:
    pair, _ = wounded
    found = {(c.layer, c.field): (c.extra_bytes, c.macs) for c in choices(pair.reference, pair.prepared)}
    tokens, dim = 17, 48
    assert found["blocks.0.fc1", "weight_bits"] == (2 * dim * dim // 2, 0)
    assert found["blocks.0.norm1", "activation_bits"] == (0, 3 * tokens * dim * dim)
    assert found["blocks.0.attention", "activation_bits"] == (0, tokens * dim * dim)
    assert found["blocks.0", "activation_bits"] == (0, 2 * tokens * dim * dim)
    assert found["blocks.1", "activation_bits"] == (0, 2 * dim * dim)  # the class token alone
    assert {field for _, field in found} == {"weight_bits", "activation_bits"}
    assert not any(name in ("patch", "head", "norm") for name, _ in found)
    size = size_of(pair.reference, pair.prepared)
    blocks = 2 * (4 + 4) * dim * dim
    assert size.weight_bytes == blocks // 2 + 3 * 8 * 8 * dim + 10 * dim
    assert size.macs == sum(macs for _, macs in found.values()) and size.wide_macs == 0


def test_a_fused_projection_is_one_choice() -> None:
    pair, _ = pair_of(CASES["timm_vit"].build())
    (qkv,) = [c for c in choices(pair.reference, pair.prepared) if c.layer == "blocks.0.attn.qkv"]
    assert len(qkv.nodes) == 3 and qkv.extra_bytes == 3 * 48 * 48 // 2


def test_one_pass_over_all_layers_is_as_good_as_each_alone(wounded) -> None:
    pair, batches = wounded
    simulation, each = Simulation(pair.reference, pair.prepared, batches), choices(pair.reference, pair.prepared)
    together = simulation.losses_alone(each)
    assert list(together) == each and min(together.values()) > 0
    for choice in each:
        assert simulation.losses_alone([choice])[choice] == pytest.approx(together[choice], rel=1e-6)


def test_a_layer_alone_loses_what_its_own_quantiser_does(wounded) -> None:
    """Against PyTorch's own modules: the float model with one weight replaced, and nothing else."""
    pair, batches = wounded
    (fc2,) = [
        c for c in choices(pair.reference, pair.prepared) if (c.layer, c.field) == ("blocks.0.fc2", "weight_bits")
    ]
    (node,) = fc2.nodes
    model, x = wounded_model(), images(8, seed=1)
    with torch.no_grad():
        wanted = model(x)
        linear = next(iter(node.users))
        model.blocks[0].fc2.weight.copy_(constant(pair.prepared, node.args[0]))
        model.blocks[0].fc2.bias.copy_(constant(pair.prepared, linear.args[2]))
        loss = float(divergence(wanted, model(x)).mean())
    simulation = Simulation(pair.reference, pair.prepared, batches)
    assert simulation.losses_alone([fc2])[fc2] == pytest.approx(loss, rel=0.02)  # of 1e-5: float32


def test_the_simulation_loses_what_the_integers_lose(wounded) -> None:
    """On other images than the eight that calibration suits, on which next to nothing is lost."""
    pair, _ = wounded
    others = images(64, seed=5)
    report = analyze(wounded_model(), (images(1),), images(8, seed=1), images=others, method=AS_GIVEN)
    assert report.divergence is not None
    simulated = Simulation(pair.reference, pair.prepared, Batches(others, (images(1),))).loss()
    assert simulated == pytest.approx(report.divergence, rel=0.3)


def test_everything_at_8_bits_is_nearly_float() -> None:
    config = dataclasses.replace(W4A4, probabilities="linear")
    pair, batches = pair_of(plain_model(), config)
    simulation = Simulation(pair.reference, pair.prepared, batches)
    assert simulation.loss(choices(pair.reference, pair.prepared)) < 0.1 * simulation.loss()


def test_the_wound_is_found_first(wounded) -> None:
    pair, batches = wounded
    mix = suggest_for(pair, batches, Limits(0.15, 1.0))
    first = mix.facts["layers"][0]
    assert (first["layer"], first["field"]) == ("blocks.1", "activation_bits")
    assert first["loss_alone"] == max(layer["loss_alone"] for layer in mix.facts["layers"])
    assert mix.facts["loss"]["after"] < 0.5 * mix.facts["loss"]["before"]


@pytest.mark.parametrize(
    ("head", "unit"), [(False, "of the embeddings' variance"), (True, "of the embeddings' variance + nats")]
)
def test_a_mix_for_a_tower_brings_its_embeddings_closer(head: bool, unit: str) -> None:
    model, x, example = Tower(head=head), images(8, seed=1), (images(1),)
    mix = suggest(model, example, x, limits=Limits(0.3, 1.0))
    assert mix.overrides and mix.facts["loss"]["unit"] == unit
    before, after = (
        analyze(model, example, x, config, images=images(16, seed=7)).cosine for config in (W4A4, mix.apply(W4A4))
    )
    assert before is not None and after is not None
    assert 1 - after < 0.8 * (1 - before)


@pytest.mark.parametrize("limits", [Limits(0.15, 0.25), Limits(0.3, 0.0), Limits(0.0, 0.3), Limits(0.0, 0.0)])
def test_limits_hold(wounded, limits: Limits) -> None:
    pair, batches = wounded
    mix = suggest_for(pair, batches, limits)
    size, facts = size_of(pair.reference, pair.prepared), mix.facts
    assert facts["weight_bytes"]["after"] <= size.weight_bytes * (1 + limits.extra_bytes)
    assert facts["macs_at_8_bit_activations"]["after"] <= size.macs * limits.wide_macs
    assert bool(mix.overrides) == (limits != Limits(0.0, 0.0))
    if limits.wide_macs == 0:
        assert all(override.activation_bits is None for override in mix.overrides.values())
    if limits.extra_bytes == 0:
        assert all(override.weight_bits is None for override in mix.overrides.values())


def test_the_mix_helps_in_integers_and_costs_no_more_than_it_may() -> None:
    model, x, example = wounded_model(), images(8, seed=1), (images(1),)
    mix = suggest(model, example, x, limits=Limits(0.15, 0.5))
    before, after = (
        analyze(model, example, x, config, images=images(16, seed=7)) for config in (W4A4, mix.apply(W4A4))
    )
    assert before.divergence is not None and after.divergence is not None
    assert after.divergence < 0.7 * before.divergence
    uniform, mixed = (len(export(model, example, x, config=config).buffer) for config in (W4A4, mix.apply(W4A4)))
    assert uniform < mixed <= 1.15 * uniform


def test_nothing_is_random() -> None:
    first, second = (suggest(plain_model(), (images(1),), images(8, seed=1)) for _ in range(2))
    assert first == second


def test_nothing_to_raise_is_an_error() -> None:
    with pytest.raises(PackQViTError, match="no layer has 4 bits"):
        suggest(plain_model(), (images(1),), images(4), QuantizationConfig.preset("w8a8"))


def test_shares_are_checked() -> None:
    with pytest.raises(PackQViTError, match="extra_bytes is 15"):
        Limits(extra_bytes=15)


def layer(name: str, extra_bytes: int = 0, macs: int = 0) -> Choice:
    return Choice(name, "weight_bits" if extra_bytes else "activation_bits", (), extra_bytes, macs)


def chosen(gains: dict[Choice, float], budget: Budget) -> list[str]:
    return [choice.layer for choice in select(gains, budget)]


def test_gain_per_cost_decides_and_what_no_longer_fits_is_passed_over() -> None:
    gains = {layer("a", 90): 6.0, layer("b", 20): 3.0, layer("c", 50): 2.0}
    assert chosen(gains, Budget(100, 0)) == ["b", "c"]
    assert chosen(gains, Budget(115, 0)) == ["b", "a"]


def test_the_two_budgets_do_not_take_from_one_another() -> None:
    gains = {layer("a", 60): 5.0, layer("b", 60): 4.0, layer("c", macs=60): 1.0, layer("d", macs=60): 0.5}
    assert chosen(gains, Budget(100, 100)) == ["a", "c"]


def test_ties_fall_to_the_earlier_and_no_gain_is_no_choice() -> None:
    gains = {layer("a", macs=10): 0.0, layer("b", macs=10): 1.0, layer("c", macs=10): 1.0}
    assert chosen(gains, Budget(0, 10)) == ["b"]
    assert chosen(gains, Budget(0, 30)) == ["b", "c"]


def test_a_mix_is_read_as_it_was_written(tmp_path: Path) -> None:
    overrides = {
        "blocks.0.fc1": LayerOverride(weight_bits=8),
        "blocks.1": LayerOverride(weight_bits=8, activation_bits=8),
    }
    mix = MixedPrecision(overrides, {"loss": {"before": 2.0}})
    mix.save(tmp_path / "mix.json")
    assert MixedPrecision.load(tmp_path / "mix.json") == mix
    config = mix.apply(W4A4)
    assert config.weight_bits_of("blocks.0.fc1", edge=False) == 8
    assert config.activation_bits_of("blocks.1") == 8 and config.activation_bits_of("blocks.0") == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot read the mixed precision"),
        ("{", "is not a JSON file"),
        ("[]", 'has to hold "packqvit_mixed_precision": 1'),
        (json.dumps({"packqvit_mixed_precision": 2}), 'has to hold "packqvit_mixed_precision": 1'),
        (json.dumps({"packqvit_mixed_precision": 1}), 'has no "overrides"'),
        (json.dumps({"packqvit_mixed_precision": 1, "overrides": {"a": 8}}), "layer 'a': expected an object"),
        (json.dumps({"packqvit_mixed_precision": 1, "overrides": {"a": {"bits": 8}}}), "layer 'a': expected an object"),
        (
            json.dumps({"packqvit_mixed_precision": 1, "overrides": {"a": {"weight_bits": 6}}}),
            "layer 'a': weight_bits is 6, but only 4 and 8 bits",
        ),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "mix.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PackQViTError) as error:
        MixedPrecision.load(path)
    assert reason in str(error.value)
