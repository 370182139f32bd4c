"""What tokens count, against gradients worked out by hand and against the answers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from models import export as exported
from models import images, plain_model, timm_model
from packqvit_delegate import CalibrationError, CalibrationMethod, PackQViTQuantizer, QuantizationConfig
from packqvit_delegate.answers import answers_of
from packqvit_delegate.calibration import calibrate
from packqvit_delegate.calibration import token_importance as importance_module
from packqvit_delegate.calibration.token_importance import TokenImportance, token_importance
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.graph import aten, find
from packqvit_delegate.training import TrainableModel

TOKENS, CHANNELS = 5, 6


class Pooled(nn.Module):
    """The stream is read at two tokens, one of them at half its value."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branch, self.head = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        stream = x + self.branch(x)
        return self.head(stream[:, 0] + 0.5 * stream[:, 3])


def export(model: nn.Module, x: Tensor) -> GraphModule:
    return canonicalize(exported(model, x))


def measured(model: nn.Module, x: Tensor, batch_size: int = 1) -> TokenImportance:
    return token_importance(export(model, x[:batch_size]), [(part,) for part in x.split(16)], batch_size)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_tokens_count_by_the_square_of_what_the_answer_feels(batch_size: int) -> None:
    x = torch.randn(32, TOKENS, CHANNELS)
    found = measured(Pooled(), x, batch_size)
    expected = torch.tensor([1.0, 0.0, 0.0, 0.25, 0.0])
    torch.testing.assert_close(found.absolute["linear"], TOKENS * expected / expected.sum())


def test_a_branch_counts_relative_to_the_stream_behind_it() -> None:
    x = torch.randn(64, TOKENS, CHANNELS)
    model = Pooled()
    x[:, 3] *= 4  # a large token: the same error is less of it
    with torch.no_grad():
        variance = (x + model.branch(x)).var(-1, correction=0)
    found = measured(model, x).relative["linear"]
    assert set(found.nonzero().flatten().tolist()) == {0, 3}
    # Both tokens have the gradient of the head, times 1 and 1/2: the ratio lies between those of single images.
    ratios = 0.25 * variance[:, 3] / variance[:, 0]
    assert float(ratios.min()) < float(found[3] / found[0]) < float(ratios.max())


def test_every_token_keeps_a_part_of_its_weight() -> None:
    graph = export(Pooled(), torch.randn(1, TOKENS, CHANNELS))
    found = token_importance(graph, [(torch.randn(8, TOKENS, CHANNELS),)], 1)
    (branch, _) = find(graph, aten.linear.default)
    weights = found.of(branch)
    assert weights is not None and float(weights.min()) == 0.5 and float(weights.mean()) == pytest.approx(1.0)


def test_the_same_images_give_the_same_importance() -> None:
    x = images(16)
    one, other = (measured(plain_model(), x) for _ in range(2))
    assert one.absolute.keys() == other.absolute.keys() and one.relative.keys() == other.relative.keys()
    assert all(torch.equal(one.absolute[name], other.absolute[name]) for name in one.absolute)


def test_behind_the_last_attention_only_the_class_token_counts() -> None:
    x = images(16)
    graph = export(plain_model(), x[:1])
    found = token_importance(graph, [(x,)], 1)
    linears = find(graph, aten.linear.default)
    query, key, projection, expand, contract, head = (linears[i].name for i in (-7, -6, -4, -3, -2, -1))
    for name in (query, projection, expand, contract):
        importance = found.absolute[name]
        assert float(importance[0]) == pytest.approx(len(importance)) and not bool(importance[1:].any())
    assert bool((found.absolute[key] > 0).all())
    assert set(found.relative) == {linears[i].name for i in (3, 5, 9, 11)}
    assert head not in found.absolute


class Features(nn.Module):
    """Gives two tokens of the stream as they are, or these and a pooled one."""

    def __init__(self, several: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branch, self.norm, self.several = nn.Linear(CHANNELS, CHANNELS), nn.LayerNorm(CHANNELS), several

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(x + self.branch(x))
        return (x[:, 0], x[:, 3:].mean(1)) if self.several else x[:, 0]


@pytest.mark.parametrize("several", [False, True])
def test_features_count_by_their_squared_errors(several: bool) -> None:
    """Those of one token: of nothing else. A mean of two: each a quarter of it, as gradients are a half."""
    x = torch.randn(64, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(2))
    graph = export(Features(several), x[:1])
    assert answers_of(graph) == ("embedding",) * (1 + several)
    found = measured(Features(several), x).absolute["linear"]
    assert set(found.nonzero().flatten().tolist()) == ({0, 3, 4} if several else {0})


def test_answers_that_are_not_finite_are_refused() -> None:
    model = Pooled()
    with torch.no_grad():
        model.branch.weight[0, 0] = float("inf")
    with pytest.raises(CalibrationError, match="infinite activations"):
        measured(model, torch.randn(8, TOKENS, CHANNELS))


def test_weights_suit_the_answers_better() -> None:
    """W4A8, 145 tokens of which the answer reads one."""
    size, float_model = 96, timm_model("deit_tiny_patch16_224", img_size=96)
    train, test = images(32, size, seed=1), images(64, size, seed=2)
    graph = export(float_model, train[:1])

    def divergence(importance: bool) -> float:
        config = QuantizationConfig.from_bits(4, 8)
        prepared = prepare_pt2e(copy.deepcopy(graph), PackQViTQuantizer(config=config))
        calibrate(prepared, [(train,)], 1, CalibrationMethod(token_importance=importance))
        with torch.no_grad():
            found, wanted = (m(test).log_softmax(1) for m in (TrainableModel(prepared).eval(), float_model))
        return float(functional.kl_div(found, wanted, log_target=True, reduction="batchmean"))

    with_it, without = divergence(True), divergence(False)
    assert with_it < 0.9 * without


def test_large_activations_run_with_fewer_images_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(6)
    graph_module = canonicalize(exported(plain_model(), x[:1]))
    everything = token_importance(graph_module, [(x,)], 1)
    sizes, measure = [], importance_module._measure

    def watched(graph_module: GraphModule, inputs: tuple[Tensor, ...], *rest: Any) -> None:
        sizes.append(inputs[0].shape[0])
        measure(graph_module, inputs, *rest)

    monkeypatch.setattr(importance_module, "_measure", watched)
    for bytes_at_once, expected in ((1, [1] * 6), (1 << 40, [6])):
        monkeypatch.setattr(importance_module, "_BYTES", bytes_at_once)
        found = token_importance(graph_module, [(x,)], 1)
        assert sizes == expected and found.absolute.keys() == everything.absolute.keys()
        sizes.clear()
