"""Class scores and embeddings are told apart, and each loses in its own way."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

from models import Tower, export, images, plain_model
from packqvit_delegate import PackQViTQuantizer, QuantizationConfig
from packqvit_delegate.answers import answers_of, divergence, losses, outputs_of, spread, tensors_of
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.preparation import make_pair


class Heads(nn.Module):
    """Linears of two tokens, and what is made of them."""

    def __init__(self, gives: Callable[[Tensor, Tensor], object], classes: int = 4, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gives = gives
        self.first, self.second = (nn.Linear(8, classes, bias=bias) for _ in range(2))

    def forward(self, x: Tensor) -> object:
        return self.gives(self.first(x[:, 0]), self.second(x[:, 1]))


def zero_bias() -> nn.Module:
    model = Heads(lambda a, b: a)
    nn.init.zeros_(model.first.bias)
    return model


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Heads(lambda a, b: a), ("classes",)),
        (Heads(lambda a, b: (a + b) / 2), ("classes",)),
        (Heads(lambda a, b: (a, b)), ("classes", "classes")),
        (Heads(lambda a, b: a, classes=1), ("embedding",)),
        (Heads(lambda a, b: a, bias=False), ("embedding",)),
        (zero_bias(), ("embedding",)),
        (Heads(lambda a, b: functional.normalize(a, dim=-1)), ("embedding",)),
        (Heads(lambda a, b: torch.stack([a, b], 1)), ("embedding",)),
        (Heads(lambda a, b: (a, a.argmax(1))), ("classes",)),
    ],
)
def test_linears_with_a_bias_score_classes(model: nn.Module, expected: tuple[str, ...]) -> None:
    graph = canonicalize(export(model, torch.randn(2, 3, 8)))
    assert answers_of(graph) == expected
    assert len(outputs_of(graph)) == len(expected) == len(tensors_of(model(torch.randn(2, 3, 8))))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (plain_model(), ("classes",)),
        (Tower(), ("embedding",)),
        (Tower(lambda tokens: (tokens, tokens.mean(1))), ("embedding", "embedding")),
        (Tower(head=True), ("embedding", "classes")),
    ],
)
@pytest.mark.parametrize("output", ["float", "int8"])
def test_they_stay_what_they_are_through_all_passes(model: nn.Module, expected: tuple[str, ...], output: str) -> None:
    """Rotations and equalisation give projections a bias; int8 outputs have an identity in front of them."""
    x = images(4)
    pair = make_pair(model, (x[:1],), Batches(x, (x[:1],)), QuantizationConfig.from_bits(4, 8), output=output)  # type: ignore[arg-type]
    assert answers_of(pair.reference) == answers_of(pair.prepared) == expected
    assert len(outputs_of(pair.prepared)) == len(expected)


@pytest.mark.parametrize("gives", [lambda tokens: tokens, lambda tokens: tokens[:, 0]])
def test_a_graph_that_nobody_marked_is_looked_at(gives: Callable[[Tensor], Tensor]) -> None:
    graph = canonicalize(export(Tower(gives), images(1)))
    prepared = prepare_pt2e(copy.deepcopy(graph), PackQViTQuantizer())
    assert answers_of(graph) == answers_of(prepared) == ("embedding",)


def test_class_scores_lose_the_divergence_in_nats() -> None:
    found, wanted = torch.randn(2, 5, 7).unbind()
    expected = functional.kl_div(found.log_softmax(1), wanted.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(losses([found], [wanted], ["classes"]), expected)
    torch.testing.assert_close(divergence(wanted, found), expected)
    assert (
        float(losses([found + 3], [found], ["classes"]).abs().max()) < 1e-5
    )  # what is added to all classes is nothing


def embeddings(count: int = 64) -> Tensor:
    """Far from 0, where all images are, and little different from each other."""
    generator = torch.Generator().manual_seed(0)
    return 10 * torch.randn(16, generator=generator) + torch.randn(count, 16, generator=generator)


def test_embeddings_lose_what_tells_images_apart() -> None:
    wanted = embeddings()
    mean = wanted.mean(0).expand_as(wanted)
    assert float(losses([mean], [wanted], ["embedding"]).mean()) == pytest.approx(1, rel=0.02)
    assert float(losses([wanted.roll(1, 0)], [wanted], ["embedding"]).mean()) == pytest.approx(2, rel=0.2)
    shifted = losses([wanted + 1], [wanted], ["embedding"])  # which no probabilities show
    assert float(shifted.min()) > 0.8
    far = losses([100 + mean], [100 + wanted], ["embedding"])  # what all have in common counts for nothing
    torch.testing.assert_close(far, losses([mean], [wanted], ["embedding"]), rtol=1e-3, atol=1e-3)


def test_a_massive_token_does_not_outweigh_the_others() -> None:
    wanted = torch.randn(3, 5, 16)
    wanted[:, 2] *= 1000
    for token in (0, 2):
        found = wanted.clone()
        found[:, token] += 0.1 * wanted[:, token].std(-1, keepdim=True)
        assert float(losses([found], [wanted], ["embedding"]).mean()) == pytest.approx(0.01 / 5, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 16), (4, 16), (4,), (1, 5, 16), (2, 16, 3, 3), (2, 16, 3, 1)])
def test_every_shape_has_a_finite_loss(shape: tuple[int, ...]) -> None:
    wanted = torch.randn(shape)
    found = (wanted + 0.1 * torch.randn(shape)).requires_grad_()
    loss = losses([found], [wanted], ["embedding"])
    assert loss.shape == shape[:1] and 1e-4 < float(loss.mean()) < 1
    loss.sum().backward()
    assert found.grad is not None and bool(torch.isfinite(found.grad).all())
    assert bool((spread(torch.ones(shape)) > 0).all())  # what is the same everywhere


def test_several_outputs_lose_the_sum() -> None:
    a, b, c, d = torch.randn(4, 6, 8).unbind()
    kinds = ["classes", "embedding"]
    total = losses([a, b], [c, d], kinds)  # type: ignore[arg-type]
    torch.testing.assert_close(total, losses([a], [c], ["classes"]) + losses([b], [d], ["embedding"]))
