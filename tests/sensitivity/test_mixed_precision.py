"""The search for layers with 8 bits, what it costs, and the file that it is written into."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from models import CASES, images, plain_model
from packqvit_delegate import LayerOverride, PackQViTError, QuantizationConfig, export
from packqvit_delegate.api import Batches
from packqvit_delegate.sensitivity import Limits, MixedPrecision, Pair, analyze, make_pair, suggest, suggest_for
from packqvit_delegate.sensitivity.search import Budget, search
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


def pair_of(model: nn.Module, config: QuantizationConfig = W4A4) -> tuple[Pair, Batches]:
    batches = Batches(images(8, seed=1), (images(1),))
    return make_pair(model, (images(1),), batches, config), batches


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
    assert simulation.losses(each) == pytest.approx([simulation.loss([choice]) for choice in each], rel=1e-6)


def test_the_simulation_loses_what_the_integers_lose(wounded) -> None:
    pair, batches = wounded
    report = analyze(wounded_model(), (images(1),), images(8, seed=1))
    assert report.divergence is not None
    simulated = Simulation(pair.reference, pair.prepared, batches).loss()
    assert simulated == pytest.approx(report.divergence, rel=0.3)


def test_everything_at_8_bits_is_nearly_float() -> None:
    config = dataclasses.replace(W4A4, probabilities="linear")
    pair, batches = pair_of(plain_model(), config)
    simulation = Simulation(pair.reference, pair.prepared, batches)
    assert simulation.loss(choices(pair.reference, pair.prepared)) < 0.1 * simulation.loss()


def test_the_wound_is_found_first(wounded) -> None:
    pair, batches = wounded
    mix = suggest_for(pair, batches, Limits(0.15, 1.0))
    first = mix.facts["steps"][0]
    assert (first["layer"], first["field"]) == ("blocks.1", "activation_bits")
    assert first["loss"] < 0.7 * mix.facts["loss"]["before"]


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


class Table(Simulation):
    """Losses out of a table, in the place of a model's."""

    def __init__(self, losses: dict[str, float]) -> None:
        self._losses = losses

    def loss(self, raised: Iterable[Choice] = ()) -> float:
        return self._losses["".join(sorted(choice.layer for choice in raised))]

    def losses(self, each, progress=None) -> list[float]:
        return [self.loss([choice]) for choice in each]


def layer(name: str, extra_bytes: int = 0, macs: int = 0) -> Choice:
    return Choice(name, "weight_bits" if extra_bytes else "activation_bits", (), extra_bytes, macs)


def test_a_gain_is_measured_again_beside_what_was_chosen() -> None:
    # b alone gains more than c; with a it gains nothing, for it heals the same wound.
    table = Table({"": 10, "a": 4, "b": 5, "c": 8, "ab": 4, "ac": 2, "abc": 2})
    initial, steps = search(table, [layer("a", macs=1), layer("b", macs=1), layer("c", macs=1)], Budget(0, 2))
    assert initial == 10
    assert [(step.choice.layer, step.loss) for step in steps] == [("a", 4), ("c", 2)]


def test_gain_per_cost_decides_and_what_no_longer_fits_is_passed_over() -> None:
    table = Table({"": 10, "a": 4, "b": 7, "c": 8, "bc": 5, "ab": 1})
    each = [layer("a", extra_bytes=90), layer("b", extra_bytes=20), layer("c", extra_bytes=50)]
    _, steps = search(table, each, Budget(100, 0))
    assert [step.choice.layer for step in steps] == ["b", "c"]


def test_a_layer_that_makes_it_worse_is_left_alone() -> None:
    _, steps = search(Table({"": 10, "a": 11}), [layer("a", macs=1)], Budget(0, 10))
    assert steps == []


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
            "layer 'a': LayerOverride.weight_bits is 6",
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
