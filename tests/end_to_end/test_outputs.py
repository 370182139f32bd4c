"""What a model gives out that is no classifier's logits: features of tokens, pooled ones, several at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import MICRO, images, plain_model
from packqvit_delegate import PackQViTError, Program, QuantizationConfig, export, runtime
from packqvit_delegate.calibration import CalibrationMethod
from packqvit_delegate.passes import float_operators
from programs import assert_whole_and_exact, flat_outputs, micro_program, signal_to_noise

DIM, TOKENS = MICRO["dim"], 17
ops = torch.ops.packqvit
CHEAP = CalibrationMethod(rounding="nearest", bias_correction=False, compensation=False, token_importance=False)


class Features(nn.Module):
    """The blocks of a plain model; `forward` says what of their tokens is given out."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.model, self.function = plain_model(), forward
        generator = torch.Generator().manual_seed(3)
        self.fc_norm, self.a, self.b = nn.LayerNorm(DIM), nn.Linear(DIM, 10), nn.Linear(DIM, 10)
        self.wide = nn.Linear(2 * DIM, 10)
        for parameter in (*self.a.parameters(), *self.b.parameters(), *self.wide.parameters()):
            nn.init.normal_(parameter, std=0.2, generator=generator)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)

    def stream(self, x: Tensor) -> list[Tensor]:
        """[B, 17, D] in front of the first block and behind each."""
        found = [self.model._embed(self.model.patch(x))]
        for block in self.model.blocks:
            found.append(block(found[-1]))
        return found

    def features(self, x: Tensor) -> Tensor:
        """[B, 17, D]."""
        return self.model.norm(self.stream(x)[-1])


def intermediate(m: Features, x: Tensor) -> dict[str, Tensor]:
    """As a backbone gives them: each layer normalised, without the class token."""
    return {f"layer{i}": m.model.norm(y)[:, 1:] for i, y in enumerate(m.stream(x)[1:])}


def pooler(m: Features, x: Tensor) -> tuple[Tensor, Tensor]:
    """As Hugging Face's ViTModel."""
    y = m.features(x)
    return y, torch.tanh(m.a(y[:, 0]))


def class_and_mean(m: Features, x: Tensor) -> Tensor:
    y = m.features(x)
    return m.wide(torch.cat([y[:, 0], y[:, 1:].mean(1)], -1))


def projected(m: Features, x: Tensor) -> tuple[Tensor, Tensor]:
    """An embedding and what a layer behind it makes of it."""
    y = m.a(m.features(x)[:, 0])
    return y, F.linear(y, m.b.weight[:, :10], m.b.bias)


OUTPUTS: dict[str, Callable[[Features, Tensor], Any]] = {
    "tokens": lambda m, x: m.features(x),
    "patches": lambda m, x: m.features(x)[:, 1:],
    "class_token": lambda m, x: m.features(x)[:, 0],
    "mean": lambda m, x: m.features(x).mean(1),
    "mean_of_patches": lambda m, x: m.features(x)[:, 1:].mean(1, keepdim=True),
    "mean_then_norm": lambda m, x: m.fc_norm(m.stream(x)[-1].mean(1)),
    "stream": lambda m, x: m.stream(x)[-1],
    "token_of_the_stream": lambda m, x: m.stream(x)[-1][:, 0],
    "hidden_states": lambda m, x: tuple(m.stream(x)),
    "intermediate": intermediate,
    "features_and_logits": lambda m, x: (m.features(x), m.a(m.features(x)[:, 0])),
    "pooler": pooler,
    "projected": projected,
    "map_of_tokens": lambda m, x: m.features(x)[:, 1:].reshape(-1, 4, 4, DIM),
    "token_and_patches": lambda m, x: (lambda y: (y[:, 0], y[:, 1:]))(m.features(x)),
    "another_branch": lambda m, x: (lambda y: (y, m.fc_norm(y)))(m.features(x)),
    "two_heads": lambda m, x: (lambda y: (m.a(y[:, 0]) + m.b(y[:, 1])) / 2)(m.features(x)),
    "class_and_mean": class_and_mean,
    "two_layers": lambda m, x: m.wide(torch.cat([m.model.norm(y)[:, 0] for y in m.stream(x)[1:]], -1)),
    "sum_of_norms": lambda m, x: (m.model.norm(m.stream(x)[1]) + m.fc_norm(m.stream(x)[2])) * 0.5,
}


POOLED: dict[str, Callable[[Features, Tensor], Any]] = {
    "maximum": lambda m, x: m.a(m.features(x).amax(1)),
    "maximum_of_patches": lambda m, x: m.a(m.features(x)[:, 1:].max(1).values),
    "maximum_then_norm": lambda m, x: m.a(m.fc_norm(m.stream(x)[-1].amax(1))),
    "maximum_of_the_stream": lambda m, x: m.a(m.stream(x)[-1].amax(1)),
    "maximum_given_out": lambda m, x: m.features(x).amax(1),
    "maximum_of_the_stream_given_out": lambda m, x: m.stream(x)[-1].amax(1, keepdim=True),
    "mean_and_maximum": lambda m, x: m.a(m.fc_norm((lambda y: (y.mean(1) + y.amax(1)) * 0.5)(m.stream(x)[-1]))),
    "mean_and_maximum_of_features": lambda m, x: m.a((lambda y: y.mean(1) + y.amax(1))(m.features(x))),
    "mean_beside_maximum": lambda m, x: m.wide(torch.cat([m.features(x).mean(1), m.features(x).amax(1)], -1)),
    "maximum_of_a_function": lambda m, x: F.linear(F.gelu(m.a(m.features(x))).amax(1), m.b.weight[:, :10], m.b.bias),
    "groups": lambda m, x: m.a(m.features(x)[:, 1:].unflatten(1, (4, 4)).amax(2).mean(1)),
    "strided_groups": lambda m, x: m.a(m.fc_norm(m.stream(x)[-1][:, 1:].unflatten(1, (4, 4)).amax(1))),
    "pooled_windows": lambda m, x: m.fc_norm(m.stream(x)[-1][:, 1:].unflatten(1, (2, 2, 2, 2)).mean((2, 4))),
}
"""Tokens of which one is made: the largest codes, means, and sums of both."""


STREAM_SUMS: dict[str, Callable[[Features, Tensor], Any]] = {
    "two_layers_added": lambda m, x: m.a(m.fc_norm(m.stream(x)[1] + m.stream(x)[2])[:, 0]),
    "mean_of_all_layers": lambda m, x: sum(m.stream(x)) / 3,
    "weighted_layers": lambda m, x: m.a(m.fc_norm(0.2 * m.stream(x)[0] + 0.8 * m.stream(x)[2])),
    "long_skip": lambda m, x: m.a((m.stream(x)[2] + m.stream(x)[0]).mean(1)),
    "two_tokens": lambda m, x: m.a((lambda y: y[:, 0] + y[:, 1])(m.features(x))),
    "token_and_mean": lambda m, x: (lambda y: y[:, 0] + y[:, 1:].mean(1))(m.features(x)),
    "norms_without_weights": lambda m, x: F.layer_norm(m.stream(x)[1], (DIM,)) + F.layer_norm(m.stream(x)[2], (DIM,)),
}
"""Additions of two values that are both no branches."""


MAPS_AND_EMBEDDINGS: dict[str, Callable[[Features, Tensor], Any]] = {
    "normalised": lambda m, x: F.normalize(m.a(m.features(x)[:, 0]), dim=-1),
    "normalised_token": lambda m, x: (lambda y: y / y.norm(dim=-1, keepdim=True))(m.features(x)[:, 0]),
    "normalised_mean": lambda m, x: F.normalize(m.features(x).mean(1), dim=-1) * 10,
    "normalised_tokens": lambda m, x: F.normalize(m.features(x)[:, 1:], dim=-1),
    "embedding_and_normalised": lambda m, x: (lambda y: (y, F.normalize(y, dim=-1)))(m.a(m.features(x)[:, 0])),
    "logits_of_normalised": lambda m, x: m.a(F.normalize(m.features(x)[:, 0], dim=-1)),
    "map": lambda m, x: m.features(x)[:, 1:].transpose(1, 2).reshape(-1, DIM, 4, 4),
    "map_of_the_stream": lambda m, x: m.stream(x)[1][:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2).contiguous(),
    "map_of_logits": lambda m, x: m.a(m.features(x)[:, 1:]).transpose(1, 2).reshape(-1, 10, 4, 4),
    "transposed": lambda m, x: m.features(x).transpose(1, 2),
    "logits_of_a_token": lambda m, x: m.a(m.features(x))[:, 0],
    "all_logits_and_those_of_a_token": lambda m, x: (lambda y: (y, y[:, 0]))(m.a(m.features(x))),
}


def check(program: Program, model: nn.Module, batch: Tensor, floor: float) -> None:
    """One delegate call, the eager graph's bits, and values close to the model's."""
    assert float_operators(program.integer_module) == []
    found = assert_whole_and_exact(program, batch)
    with torch.no_grad():
        expected = flat_outputs(model(batch))
    for real, quantised in zip(expected, found, strict=True):
        assert signal_to_noise(real, quantised) > floor


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_leave_from_the_delegate(name: str) -> None:
    model, batch = Features(OUTPUTS[name]).eval(), images(16)
    check(export(model, (batch[:1],), batch, bits=8), model, batch[:2], 28)


@pytest.mark.parametrize("name", [*POOLED, *STREAM_SUMS])
def test_pooled_tokens_and_sums_of_streams_are_whole(name: str) -> None:
    model, batch = Features({**POOLED, **STREAM_SUMS}[name]).eval(), images(16)
    check(export(model, (batch[:2],), batch, bits=8), model, batch[:4], 28)


@pytest.mark.parametrize("name", ["mean_and_maximum", "maximum_of_the_stream", "two_layers_added", "weighted_layers"])
def test_pooled_tokens_and_sums_of_a_stream_of_8_bits(name: str) -> None:
    model, batch = Features({**POOLED, **STREAM_SUMS}[name]).eval(), images(16)
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), residual="int8")
    check(export(model, (batch[:2],), batch, config=config), model, batch[:4], 20)


@pytest.mark.parametrize("name", MAPS_AND_EMBEDDINGS)
def test_maps_and_embeddings_leave_from_the_delegate(name: str) -> None:
    model, batch = Features(MAPS_AND_EMBEDDINGS[name]).eval(), images(16)
    check(export(model, (batch[:2],), batch, bits=8), model, batch[:2], 28)


@pytest.mark.parametrize("name", ["hidden_states", "mean_then_norm", "two_heads", "pooler", "intermediate"])
def test_with_a_stream_of_8_bits_and_several_images(name: str) -> None:
    model, batch = Features(OUTPUTS[name]).eval(), images(16)
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), residual="int8")
    check(export(model, (batch[:2],), batch, config=config), model, batch[:4], 20)


@pytest.mark.parametrize("name", ["class_token", "token_of_the_stream", "two_heads"])
def test_the_last_block_runs_for_the_tokens_that_leave(name: str) -> None:
    batch = images(4)
    integer = export(Features(OUTPUTS[name]).eval(), (batch[:1],), batch, bits=8).integer_module
    functions = integer.graph.find_nodes(op="call_function", target=ops.lookup_table.default)
    rows = {node.meta["val"].shape[1] for node in functions}
    assert rows == {TOKENS, 2 if name == "two_heads" else 1}


def test_heads_of_a_sum_keep_the_width_of_a_head() -> None:
    """With 4-bit weights the layers at the ends have 8."""
    batch = images(4)
    integer = export(Features(OUTPUTS["two_heads"]).eval(), (batch[:1],), batch, bits=4).integer_module
    (last,) = [n for n in integer.graph.find_nodes(op="call_function", target=ops.linear_add.default)][-1:]
    first = last.args[5]
    assert first.target is ops.linear.default and (first.args[5], last.args[7]) == (8, 8)


@pytest.mark.parametrize("name", ["pooler", "hidden_states", "two_heads", "token_and_patches", "normalised"])
def test_codes_of_outputs(name: str) -> None:
    model, batch = Features({**OUTPUTS, **MAPS_AND_EMBEDDINGS}[name]).eval(), images(16)
    program = export(model, (batch[:2],), batch, bits=8, output="int8")
    assert program.report.is_whole, program.report.render()
    loaded = runtime.load(program.buffer)
    codes = loaded.run(batch[:2])
    assert all(map(torch.equal, codes, flat_outputs(program.integer_module(batch[:2]))))
    assert {tensor.dtype for tensor in codes} == {torch.int8}
    for real, code, grid in zip(flat_outputs(model(batch[:2])), codes, loaded.output_grids(), strict=True):
        assert signal_to_noise(real, grid.values(code)) > 26
        assert code.max() - code.min() > 128  # more than half of the grid is used


def test_outputs_of_one_value_have_one_grid() -> None:
    """And what linears read of it keeps its own."""
    model, batch = Features(lambda m, x: (lambda y: (y, y[:, 0], m.a(y[:, 0])))(m.features(x))).eval(), images(8)
    program = export(model, (batch[:1],), batch, bits=8, output="int8")
    tokens, token, _ = runtime.load(program.buffer).run(batch[:1])
    grids = runtime.load(program.buffer).output_grids()
    assert torch.equal(tokens[:, 0], token) and grids[0] == grids[1] != grids[2]


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda m, x: (m.features(x), m.features(x).sin()), r"output 1 has no codes: it comes from aten\.sin, which"),
        (MAPS_AND_EMBEDDINGS["map"], r"output 0 has its channels in front of its tokens"),
    ],
)
def test_outputs_without_codes_are_named(function: Callable[[Features, Tensor], Any], reason: str) -> None:
    batch = images(2)
    with pytest.raises(PackQViTError, match=reason):
        export(Features(function).eval(), (batch[:1],), batch, bits=8, method=CHEAP, output="int8")


def test_best_classes_have_no_codes() -> None:
    with pytest.raises(PackQViTError, match="top_k gives classes and their scores in float"):
        export(plain_model(), (images(1),), images(2), top_k=2, output="int8")


def test_a_program_of_floats_has_no_grids() -> None:
    with pytest.raises(PackQViTError, match='output 0 is not given as codes: export with output="int8"'):
        runtime.load(micro_program("W8A8").buffer).output_grids()
