"""What the report says about integer graphs whose losses are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.fx import GraphModule

from models import CASES, MICRO, Tower, images, plain_model
from packqvit_delegate import PackQViTError, QuantizationConfig
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.passes.graph import constant, find
from packqvit_delegate.sensitivity import (
    Pair,
    SensitivityReport,
    analyze,
    block_table,
    closeness,
    make_pair,
    measure,
    plot,
    worst_table,
)

BLOCK = {
    "norm 1",
    "q",
    "k",
    "v",
    "probabilities",
    "attention",
    "stream 1",
    "norm 2",
    "fc1",
    "activation",
    "stream 2",
}


def pair_of(model: torch.nn.Module, preset: str, batch: int = 1) -> Pair:
    x = images(8, seed=1)
    return make_pair(model, (x[:batch],), Batches(x, (x[:batch],)), QuantizationConfig.preset(preset))


def compare(pair: Pair, integer: GraphModule, batch: int = 1, count: int = 6) -> SensitivityReport:
    x = images(count, seed=2)
    return measure(pair.reference, integer, Batches(x, (x[:batch],)))


@pytest.fixture(scope="module")
def w4a4() -> tuple[Pair, GraphModule, SensitivityReport]:
    pair = pair_of(plain_model(), "w4a4")
    integer = pair.to_integer()
    return pair, integer, compare(pair, integer)


def test_every_block_has_every_operator_once(w4a4) -> None:
    report = w4a4[2]
    assert report.blocks == MICRO["depth"] and report.images == 6
    for block in range(report.blocks):
        roles = [loss.role for loss in report.operators if loss.block == block]
        assert sorted(roles) == sorted(BLOCK)
    assert [loss.role for loss in report.operators if loss.block == -1] == ["image", "embedding"]
    assert [loss.role for loss in report.operators if loss.block == report.blocks] == ["norm", "logits"]


def test_the_output_is_that_of_the_integer_graph(w4a4) -> None:
    pair, integer, report = w4a4
    x = images(6, seed=2)
    with torch.no_grad():
        wanted = plain_model()(x)
        got = torch.cat([integer(image) for image in x.split(1)])
    ratio = ((got - wanted).square().mean(1) / wanted.square().mean(1)).mean()
    assert report.operators[-1].snr == pytest.approx(-10 * float(torch.log10(ratio)), abs=0.05)
    assert report.agreement == pytest.approx(float((got.argmax(1) == wanted.argmax(1)).float().mean()))
    divergence = torch.nn.functional.kl_div(got.log_softmax(1), wanted.softmax(1), reduction="batchmean")
    assert report.divergence == pytest.approx(float(divergence), rel=1e-3)


def test_towers_are_compared_by_their_embeddings() -> None:
    pair = pair_of(Tower(), "w4a4")
    integer, x = pair.to_integer(), images(6, seed=2)
    report = compare(pair, integer)
    with torch.no_grad():
        found, wanted = torch.cat([integer(image) for image in x.split(1)]), Tower()(x)
    cosine = float(torch.nn.functional.cosine_similarity(found, wanted).mean())
    assert report.agreement is None and report.divergence is None
    assert report.cosine == pytest.approx(cosine, abs=1e-5)
    assert report.operators[-1].role == "output"
    assert closeness(report) == f"cosine to float {cosine:.4f}, {report.operators[-1].snr:.1f} dB"
    json.loads(report.to_json())


def test_classifiers_are_compared_by_their_answers(w4a4) -> None:
    report = w4a4[2]
    assert report.cosine is None and report.operators[-1].role == "logits"
    assert closeness(report).startswith("same answer as float ") and closeness(report).endswith(" nats")


def test_more_bits_lose_less_at_every_operator(w4a4) -> None:
    pair = pair_of(plain_model(), "w8a8")
    wide = compare(pair, pair.to_integer())
    for narrow, loss in zip(w4a4[2].operators, wide.operators, strict=True):
        assert (narrow.layer, narrow.role) == (loss.layer, loss.role)
        if loss.block >= 0:
            assert loss.snr > narrow.snr


def test_the_classifiers_input_uses_all_its_codes(w4a4) -> None:
    (norm,) = [loss for loss in w4a4[2].operators if loss.role == "norm"]
    assert norm.own_snr > 30  # 8 bits; 20 dB with the step of 4 bits


def test_a_damaged_operator_is_found() -> None:
    pair = pair_of(plain_model(), "w8a8")
    integer = pair.to_integer()
    before = compare(pair, integer)
    table = constant(integer, find(integer, torch.ops.packqvit.lookup_table.default)[0].args[1])  # type: ignore[arg-type]
    table.copy_(table // 32 * 32)
    after = compare(pair, integer)
    both = list(zip(before.operators, after.operators, strict=True))
    assert [(a.block, a.role) for b, a in both if a.own_snr < b.own_snr - 5] == [(0, "activation")]
    damaged = next(i for i, (_, a) in enumerate(both) if (a.block, a.role) == (0, "activation"))
    assert all(a == b for b, a in both[:damaged])
    assert all(a.snr < b.snr for b, a in both[damaged:])


@pytest.mark.parametrize("name", ["timm_deit_distilled", "timm_registers", "hf_dinov2"])
def test_models_of_all_kinds(name: str) -> None:
    pair = pair_of(CASES[name].build(), "w8a8")
    report = compare(pair, pair.to_integer(), count=2)
    assert report.blocks == CASES[name].depth
    assert min(loss.snr for loss in report.operators) > 5 and report.operators[-1].snr > 15


def test_a_program_for_batches() -> None:
    x = images(8, seed=1)
    reports = []
    for batch in (1, 4):
        pair = pair_of(plain_model(), "w8a8", batch)
        reports.append(measure(pair.reference, pair.to_integer(), Batches(x, (x[:batch],))))
    for one, four in zip(*(report.operators for report in reports), strict=True):
        assert one.snr == pytest.approx(four.snr, abs=0.5)


def test_nothing_is_random_and_the_model_is_left_alone() -> None:
    model, x = plain_model(), images(4)
    weights = [p.clone() for p in model.parameters()]
    first, second = (analyze(model, (x[:1],), x, images=images(3, seed=9)) for _ in range(2))
    assert first == second and first.images == 3
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_it_is_written(w4a4, tmp_path: Path) -> None:
    report = w4a4[2]
    report.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert len(content["operators"]) == len(report.operators)
    assert content["operators"][2]["layer"] == "blocks.0.norm1" and content["agreement"] == report.agreement
    assert block_table(report).row_count == report.blocks and worst_table(report, 3).row_count == 3
    pytest.importorskip("matplotlib")
    plot(report, tmp_path / "report.png", "micro")
    assert (tmp_path / "report.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(PackQViTError, match=r"cannot write the plot .*: its name has to end in one of .*png"):
        plot(report, tmp_path / "report.nothing")
