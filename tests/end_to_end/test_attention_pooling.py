"""Pooling by attention: queries that are constants of the model, as the heads of SigLIP, AIMv2 and CoCa have."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from models import MICRO, images, plain_model, randomize, timm_model
from packqvit_delegate import QuantizationConfig, TuningMethod, export, quantize, runtime
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.passes import lower_to_integer
from packqvit_delegate.preparation import make_pair
from packqvit_delegate.training import TrainableModel
from programs import assert_whole_and_exact, signal_to_noise

DIM, HEADS, CLASSES = MICRO["dim"], MICRO["heads"], MICRO["classes"]
ops = torch.ops.packqvit


class Tower(nn.Module):
    """Tokens of a micro Vision Transformer, and a head on them."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = plain_model(embedding="none"), head

    def forward(self, x: Tensor) -> Tensor:
        m = self.model
        x = m._embed(m.patch(x))
        for block in m.blocks:
            x = block(x)
        return self.head(m.norm(x))


class MultiHead(nn.Module):
    """One probe, nn.MultiheadAttention and an MLP behind it: SigLIP's head in Hugging Face's spelling."""

    def __init__(self, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.probe = nn.Parameter(torch.zeros(1, 1, DIM))
        self.attention = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(DIM), nn.Linear(DIM, 2 * DIM), nn.Linear(2 * DIM, DIM)
        self.out = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        probe = self.probe.repeat(x.shape[0], 1, 1)
        x = self.attention(probe, x, x)[0] + (probe if self.residual else 0)
        x = x + self.fc2(F.gelu(self.fc1(self.norm(x))))
        return self.out(x[:, 0])


class Several(nn.Module):
    """Queries behind a norm and a linear of their own, a norm behind, and a head on one of them or their mean."""

    def __init__(self, queries: int = 5, pool: str = "mean", cosine: bool = False) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(queries, DIM))
        self.query_norm, self.norm = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.q, self.k, self.v, self.proj = (nn.Linear(DIM, DIM) for _ in range(4))
        self.out = nn.Linear(DIM, CLASSES)
        self.pool, self.cosine = pool, cosine

    def forward(self, x: Tensor) -> Tensor:
        queries = self.q(self.query_norm(self.queries)).expand(x.shape[0], -1, -1)
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (queries, self.k(x), self.v(x)))
        if self.cosine:
            q, k = 4 * F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        p = (q @ k.transpose(-2, -1) * (DIM // HEADS) ** -0.5).softmax(-1)
        x = self.norm(self.proj((p @ v).transpose(1, 2).flatten(2)))
        return self.out(x.mean(1) if self.pool == "mean" else x[:, 2])


def token_first() -> nn.Module:
    """open_clip's: [tokens, batch, channels], and a norm of the constant queries."""

    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.zeros(3, DIM))
            self.attention = nn.MultiheadAttention(DIM, HEADS, kdim=DIM, vdim=DIM)
            self.query_norm, self.norm, self.out = nn.LayerNorm(DIM), nn.LayerNorm(DIM), nn.Linear(DIM, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = x.permute(1, 0, 2)
            q = self.query_norm(self.query).unsqueeze(1).expand(-1, x.shape[1], -1)
            x = self.attention(q, x, x, need_weights=False)[0].permute(1, 0, 2)
            return self.out(self.norm(x)[:, 0])

    return Tower(Head())


MODELS: dict[str, Callable[[], nn.Module]] = {
    "probe": lambda: Tower(MultiHead()),
    "probe in the stream": lambda: Tower(MultiHead(residual=True)),
    "several": lambda: Tower(Several()),
    "one of several": lambda: Tower(Several(pool="token")),
    "cosine": lambda: Tower(Several(queries=2, cosine=True)),
    "token first": token_first,
    "timm": lambda: timm_model("vit_tiny_patch16_224", global_pool="map", class_token=False),
}


@pytest.mark.parametrize(
    ("name", "preset"),
    [*((name, "w8a8") for name in MODELS), ("probe", "w4a8"), ("probe", "w4a4"), ("several", "w4a4")],
)
def test_it_runs_in_one_delegate_call_with_the_eager_bits(name: str, preset: str) -> None:
    model, x = randomize(MODELS[name]()), images(32)
    program = export(model, (x[:1],), x, config=QuantizationConfig.preset(preset))
    assert_whole_and_exact(program, x[:3])
    if preset != "w4a4":
        with torch.no_grad():
            found = torch.cat([program.integer_module(image) for image in x.split(1)])
            assert signal_to_noise(model(x), found) > (28 if preset == "w8a8" else 10)


@pytest.mark.parametrize("name", ["probe in the stream", "several", "token first"])
def test_batches(name: str) -> None:
    model, x = randomize(MODELS[name]()), images(36)
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), probabilities="log2")
    program = export(model, (x[:3],), x, config=config)
    assert_whole_and_exact(program, x[:6])
    with torch.no_grad():
        found = torch.cat([program.integer_module(part) for part in x.split(3)])
        assert signal_to_noise(model(x), found) > 15  # log2 probabilities have four bits


def test_only_the_query_that_is_used_is_computed() -> None:
    x = images(4)
    integer = quantize(randomize(Tower(Several(pool="token"))), (x[:1],), x, QuantizationConfig())
    *_, scores = integer.graph.find_nodes(op="call_function", target=ops.attention_scores.default)
    assert scores.args[0].op == "get_attr" and scores.meta["val"].shape == (1, HEADS, 1, 16)


def test_queries_that_differ_between_images_stay_in_float() -> None:
    class Own(Several):
        def forward(self, x: Tensor) -> Tensor:
            q = self.queries.reshape(2, 1, HEADS, -1).transpose(1, 2)
            k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (self.k(x), self.v(x)))
            return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)[:, 0])

    x = images(4)
    program = export(randomize(Tower(Own(queries=2))), (x[:2],), x, bits=8)
    assert any("differs between the images of a batch" in outside.reason for outside in program.report.outside)
    loaded = runtime.load(program.buffer)
    torch.testing.assert_close(loaded.run(x[:2])[0], program.integer_module(x[:2]))


@pytest.mark.parametrize("steps", [0, 4])
def test_training_sees_the_bits_of_the_program(steps: int) -> None:
    x = images(6)
    pair = make_pair(randomize(Tower(MultiHead())), (x[:1],), Batches(x, (x[:1],)), QuantizationConfig())
    model = TrainableModel(pair.prepared, integer_functions=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 3.0).square().mean().backward()
        optimizer.step()
    integer = lower_to_integer(convert_pt2e(copy.deepcopy(model.eval().commit([x]))))
    with torch.no_grad():
        assert torch.equal(model(x), torch.cat([integer(image) for image in x.split(1)]))


def test_tuning() -> None:
    x = images(16)
    tuned = export(
        randomize(Tower(Several(queries=2))),
        (x[:1],),
        x,
        config=QuantizationConfig.preset("w4a4"),
        tuning=TuningMethod(steps=3, batch=4, micro_batch=4),
        tuning_images=x,
    )
    assert_whole_and_exact(tuned, x[:2])
