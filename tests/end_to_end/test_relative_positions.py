"""Small models with relative positions that depend on the query, as in SAM and ViTDet: one call, the eager bits."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from models import images, randomize, timm_model
from packqvit_delegate import QuantizationConfig, export, qat, runtime
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.passes.graph import find
from packqvit_delegate.sensitivity.roles import places
from programs import assert_exact, assert_whole_and_exact, signal_to_noise

ops = torch.ops.packqvit
CHEAP = CalibrationMethod(
    rounding="nearest", bias_correction=False, compensation=False, clipping=False, token_importance=False
)


@functools.cache
def segment_anything(**style: bool) -> nn.Module:
    """Windows of 4 x 4, with tokens of a pad, and a block in which all of 6 x 6 tokens attend to each other."""
    size = {"img_size": 48, "patch_size": 8, "embed_dim": 48, "num_heads": 3, "depth": 3, "neck_chans": 0}
    windows = {"window_size": 4, "global_attn_indexes": (1,), "num_classes": 0}
    model = timm_model("samvit_base_patch16_224", **size, **windows, **style)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "rel_pos" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize(
    ("style", "widths", "least"),
    [({}, (8, 8), 28), ({"qk_norm": True}, (8, 8), 28), ({}, (4, 4), 8)],
    ids=["plain", "norms", "4 bits"],
)
def test_segment_anything(style: dict[str, bool], widths: tuple[int, int], least: float) -> None:
    model, x, y = segment_anything(**style), images(4, size=48), images(2, size=48, seed=5)
    program = export(model, (x[:1],), x, bits=widths[0], activation_bits=widths[1], method=CHEAP)
    (found,) = assert_whole_and_exact(program, y)
    assert len(find(program.integer_module, ops.add_relative_bias.default)) == 3
    real = model(y).detach()
    without = _without_positions(model, y)
    assert signal_to_noise(real, found) > least
    assert signal_to_noise(real, without) < 15  # so that they are not in vain
    roles = [place.role for place in places(program.integer_module).values() if place.block == 0]
    assert roles[:4] == ["norm 1", "q", "k", "v"]


def _without_positions(model: nn.Module, x: Tensor) -> Tensor:
    """What a model would answer if all relative positions were 0."""
    saved = {name: p.detach().clone() for name, p in model.named_parameters() if "rel_pos" in name}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in saved:
                parameter.zero_()
        answer = model(x)
        for name, parameter in model.named_parameters():
            if name in saved:
                parameter.copy_(saved[name])
    return answer


class HiddenState(nn.Module):
    """The last one of Hugging Face's SAM, in front of its neck."""

    def __init__(self, attention: str) -> None:
        from transformers import SamVisionConfig, SamVisionModel

        super().__init__()
        sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_dim": 96}
        maps = {"image_size": 48, "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "output_channels": 8}
        self.model = SamVisionModel(SamVisionConfig(**sizes, **maps, attn_implementation=attention))

    def forward(self, x: Tensor) -> Tensor:
        return self.model.vision_encoder(x, output_hidden_states=True).hidden_states[-1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_segment_anything_of_hugging_face(attention: str) -> None:
    model, x, y = randomize(HiddenState(attention)), images(4, size=48), images(2, size=48, seed=5)
    program = export(model, (x[:1],), x, bits=8, method=CHEAP)
    (found,) = assert_whole_and_exact(program, y)
    assert len(find(program.integer_module, ops.add_relative_bias.default)) == 2
    assert signal_to_noise(model(y).detach(), found) > 28


class Attention(nn.Module):
    """Of 4 x 4 tokens, with numbers for each head and a constant bias; heads of v may be of another size."""

    def __init__(self, values: int, masked: bool) -> None:
        super().__init__()
        self.masked = masked
        self.q, self.k = nn.Linear(48, 48), nn.Linear(48, 48)
        self.v, self.proj = nn.Linear(48, 3 * values), nn.Linear(3 * values, 48)
        self.by_row, self.by_column = (nn.Parameter(torch.zeros(3, 7, 16)) for _ in range(2))
        self.register_buffer("distance", torch.arange(4)[None] - torch.arange(4)[:, None] + 3)
        self.register_buffer("bias", torch.linspace(-3, 3, 3 * 16 * 16).sin().reshape(3, 16, 16))
        hidden = torch.zeros(16, 16, dtype=torch.bool)
        hidden[:, 5] = True
        self.register_buffer("hidden", hidden)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (linear(x).unflatten(-1, (3, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        maps = q.unflatten(2, (4, 4))
        by_row = torch.einsum("bnhwc,nhkc->bnhwk", maps, self.by_row[:, self.distance])
        by_column = torch.einsum("bnhwc,nwkc->bnhwk", maps, self.by_column[:, self.distance])
        scores = q @ k.mT * 0.25 + (by_row[..., None] + by_column[..., None, :]).flatten(4).flatten(2, 3) + self.bias
        if self.masked:
            scores = scores.masked_fill(self.hidden, -1e9)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, values: int = 16, masked: bool = False) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 48, 8, 8)
        self.norms = nn.ModuleList(nn.LayerNorm(48) for _ in range(3))
        self.attentions = nn.ModuleList(Attention(values, masked) for _ in range(2))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for norm, attention in zip(self.norms, self.attentions, strict=False):
            x = x + attention(norm(x))
        return self.head(self.norms[2](x).mean(1))


@pytest.mark.parametrize("style", [{}, {"values": 8}, {"masked": True}], ids=["heads", "parts", "masked"])
def test_numbers_of_heads_beside_a_bias(style: dict[str, int]) -> None:
    """With heads of v that are narrower, the operators of the attention run one by one."""
    model, x, y = randomize(Model(**style)), images(8, size=32), images(2, size=32, seed=5)
    program = export(model, (x[:1],), x, bits=8, method=CHEAP)
    (found,) = assert_whole_and_exact(program, y)
    added = find(program.integer_module, ops.add_relative_bias.default)
    assert [node.args[2].meta["val"].shape for node in added] == [(3, 14, 16)] * 2  # type: ignore[union-attr]
    assert signal_to_noise(model(y).detach(), found) > 25


def test_positions_that_scores_cannot_hold_stay_outside() -> None:
    model, x = randomize(Model()), images(8, size=32)
    with torch.no_grad():
        model.attentions[0].k.weight *= 1e-6
        model.attentions[0].k.bias *= 1e-6
    program = export(model, (x[:1],), x, bits=8)
    reasons = {operator.reason for operator in program.report.outside}
    assert any("its relative positions of up to" in reason for reason in reasons), reasons
    assert len(find(program.integer_module, ops.add_relative_bias.default)) == 1
    (found,) = assert_exact(program, x[:2])
    assert signal_to_noise(model(x[:2]).detach(), found) > 20


def test_several_images_in_one_program() -> None:
    x = images(8, size=48)
    program = export(segment_anything(), (x[:1],), x, bits=8, batch_sizes=[1, 3])
    loaded = runtime.load(program.buffer, "forward_3")
    one_by_one = torch.cat([program.integer_module(image) for image in x[:3].split(1)])
    assert torch.equal(loaded.run(x[:3])[0], one_by_one)


def test_training_and_what_was_trained() -> None:
    x = images(8, size=32)
    trained = qat.prepare(randomize(Model()), (x[:1],), x, QuantizationConfig())
    loss = trained(x).square().mean()
    loss.backward()
    latent = {name: p.grad for name, p in trained.named_parameters() if name.endswith(".latent")}
    assert [name for name, gradient in latent.items() if gradient is None or not bool(gradient.any())] == []
    program = runtime.load(qat.export(trained).buffer)
    with torch.no_grad():
        found = torch.cat([program.run(image)[0] for image in x[:4].split(1)])
        assert torch.equal(trained.eval()(x[:4]), found)
