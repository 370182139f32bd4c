"""Rotations of the residual stream and of attention's values."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable

import pytest
import torch
from torch.fx import GraphModule, Node
from torch.nn import functional

import packqvit_delegate
from end_to_end.test_written_models import Model, attention_in_shifted_windows, stream_in_windows
from models import MICRO, Tower, export, hugging_face_model, images, plain_model, randomize, timm_model
from packqvit_delegate import CalibrationMethod, QuantizationConfig, preparation, qat
from packqvit_delegate.answers import tensors_of
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.embeddings import signal_to_noise
from packqvit_delegate.passes import canonicalize, rotate_residual, rotate_values
from packqvit_delegate.passes.graph import aten, clean_up, constant, find, signature
from packqvit_delegate.passes.patterns import attentions
from packqvit_delegate.passes.recorder import sample_values
from packqvit_delegate.passes.rotations import mean_keeping_rotation, random_rotation


def graph(model: torch.nn.Module) -> GraphModule:
    return canonicalize(export(model, images(1)))


def constants(module: GraphModule) -> dict[str, torch.Tensor]:
    return {node.name: constant(module, node) for node in module.graph.nodes if node.op == "get_attr"}


def assert_same_function(module: GraphModule, before: GraphModule) -> None:
    x = images(1, seed=5)
    with torch.no_grad():
        for found, expected in zip(tensors_of(module(x)), tensors_of(before(x)), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))


def kurtosis(module: GraphModule, node: Node) -> float:
    """Of a node's values on images of rare bright pixels, each channel brought to one variance; a normal one has 3."""
    batches = [(image**5,) for image in images(32, seed=3).split(1)]
    rows = sample_values(module, [node], batches)[node].rows()
    return float(((rows - rows.mean(0)) / rows.std(0)).pow(4).mean())


def one_pixel_model() -> torch.nn.Module:
    """Each channel of its embedding looks at a pixel of its own."""
    model = plain_model()
    with torch.no_grad():
        weight = model.patch.weight
        pixels = torch.randperm(weight[0].numel(), generator=torch.Generator().manual_seed(2))[: len(weight)]
        weight.zero_().view(len(weight), -1)[torch.arange(len(weight)), pixels] = 1
    return model


@pytest.mark.parametrize("size", [2, 3, 48, 193])
def test_rotations_are_orthogonal_and_keep_the_mean(size: int) -> None:
    eye, ones = torch.eye(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    for make in (random_rotation, mean_keeping_rotation):
        q = make(size, torch.Generator().manual_seed(1))
        torch.testing.assert_close(q @ q.T, eye, rtol=0, atol=1e-12)
        torch.testing.assert_close(q, make(size, torch.Generator().manual_seed(1)), rtol=0, atol=0)
    torch.testing.assert_close(q @ ones, ones, rtol=0, atol=1e-12)
    assert not torch.allclose(q, eye) or size == 2  # in two dimensions only a mirror image is left beside the identity


@pytest.mark.parametrize("seed", range(20))
def test_both_of_two_dimensions(seed: int) -> None:
    q = mean_keeping_rotation(2, torch.Generator().manual_seed(seed))
    mirror = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    assert any(torch.allclose(q, m) for m in (torch.eye(2, dtype=torch.float64), mirror))


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "plain": lambda: plain_model(),
    "no bias": lambda: plain_model(bias=False),
    "mean of tokens": lambda: plain_model(pool="mean"),
    "slice of tokens": lambda: plain_model(pool="slice"),
    "no class token": lambda: plain_model(embedding="none", pool="mean"),
    "no position": lambda: plain_model(embedding="no_position"),
    "registers": lambda: plain_model(embedding="registers"),
    "layer scale": lambda: plain_model(layer_scale=True),
    "branch first": lambda: plain_model(residual="branch"),
    "scaled skip": lambda: plain_model(residual="scaled"),
    "windows": lambda: randomize(Model(stream_in_windows)),
    "shifted windows": lambda: randomize(Model(attention_in_shifted_windows)),
    "timm": lambda: timm_model("vit_tiny_patch16_224"),
    "timm, pooled before the norm": lambda: timm_model("vit_tiny_patch16_224", global_pool="avg", fc_norm=True),
    "timm, two heads": lambda: timm_model("deit_tiny_distilled_patch16_224"),
    "hugging face": lambda: hugging_face_model("ViT"),
    "class token given out": lambda: Tower(),
    "tokens given out": lambda: Tower(lambda tokens: tokens),
    "mean given out": lambda: Tower(lambda tokens: tokens[:, 1:].mean(1)),
    "map given out": lambda: Tower(lambda tokens: tokens[:, 1:].mT.unflatten(2, (4, 4))),
    "normalised": lambda: Tower(lambda tokens: functional.normalize(tokens[:, 0], dim=-1)),
    "tokens and mean": lambda: Tower(lambda tokens: (tokens, tokens.mean(1))),
    "tokens and logits": lambda: Tower(lambda tokens: tokens, head=True),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_stream_is_rotated_and_the_function_stays(name: str, caplog: pytest.LogCaptureFixture) -> None:
    module = graph(MODELS[name]())
    before = copy.deepcopy(module)
    with caplog.at_level(logging.INFO, "packqvit_delegate.passes"):
        rotate_residual(module)
    assert "not rotated" not in caplog.text
    assert_same_function(module, before)
    for norm in find(module, aten.layer_norm.default):
        weight, bias = (constant(module, argument) for argument in norm.args[2:4])  # type: ignore[arg-type]
        assert torch.equal(weight, torch.ones_like(weight)) and torch.equal(bias, torch.zeros_like(bias))
    old, new = (constants(m) for m in (before, module))
    assert not set(map(id, old.values())) & set(map(id, new.values()))
    (conv,) = find(module, aten.conv2d.default)
    moved = constant(module, conv.args[1]) - constant(before, find(before, aten.conv2d.default)[0].args[1])  # type: ignore[arg-type]
    assert float(moved.abs().mean()) > 0.1 * float(constant(module, conv.args[1]).abs().mean())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tower",
    [
        Tower(),
        Tower(lambda tokens: tokens),
        Tower(lambda tokens: (tokens[:, 0], tokens[:, 1:].mean(1))),
        Tower(lambda tokens: tokens, head=True),
        Tower(lambda tokens: functional.normalize(tokens[:, 0], dim=-1)),
    ],
)
@pytest.mark.parametrize("output", ["float", "int8"])
def test_rotated_towers_are_whole(tower: Tower, output: str) -> None:
    x = images(8)
    program = packqvit_delegate.export(tower, (x[:1],), x, bits=4, activation_bits=8, output=output)  # type: ignore[arg-type]
    assert program.report.is_whole
    with torch.no_grad():
        found, expected = tensors_of(program.integer_module(x[:1])), tensors_of(tower(x[:1]))
    for one, other in zip(found, expected, strict=True) if output == "float" else ():
        assert signal_to_noise(one, other) > 18


@pytest.mark.parametrize("projection", ["separate", "chunk", "interleaved", "query_and_kv"])
def test_values_are_rotated_and_the_function_stays(projection: str) -> None:
    module = graph(plain_model(projection=projection))
    before = copy.deepcopy(module)
    rotate_values(module)
    assert_same_function(module, before)
    for new, old in zip(attentions(module), attentions(before), strict=True):
        channels = MICRO["dim"] // new.heads
        values, values_before = (
            constant(m, a.value.args[1])  # type: ignore[arg-type]
            for m, a in ((module, new), (before, old))
        )
        rotations = []
        for head, head_before in zip(values.split(channels), values_before.split(channels), strict=True):
            rotations.append(torch.linalg.lstsq(head_before.double().T, head.double().T).solution.T)
            torch.testing.assert_close(rotations[-1] @ rotations[-1].T, torch.eye(channels).double(), rtol=0, atol=1e-4)
        assert not torch.allclose(rotations[0], rotations[1], atol=0.1)


def test_channels_come_close_to_a_normal_distribution() -> None:
    module = graph(one_pixel_model())
    before = kurtosis(module, find(module, aten.layer_norm.default)[0])
    rotate_residual(module)
    after = kurtosis(module, find(module, aten.layer_norm.default)[0])
    assert before > 9 and after < 4, (before, after)


def test_another_seed_another_rotation() -> None:
    modules = [graph(plain_model()) for _ in range(3)]
    for module, seed in zip(modules, (0, 0, 1), strict=True):
        rotate_values(rotate_residual(module, seed), seed)
    first, again, other = map(constants, modules)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def _norm_added(module: GraphModule) -> None:
    """Something else than linears computes with the last LayerNorm's tokens."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    norm = find(module, aten.layer_norm.default)[-1]
    with module.graph.inserting_before(output):
        softmax = module.graph.call_function(aten.softmax.int, (norm, -1))
        output.args = ((*output.args[0], softmax),)


def _stream_read(module: GraphModule) -> None:
    stream = find(module, aten.layer_norm.default)[1].args[0]
    output = next(node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(output):
        output.args = ((*output.args[0], module.graph.call_function(aten.relu.default, (stream,))),)


def _stream_doubled(module: GraphModule) -> None:
    norm = find(module, aten.layer_norm.default)[1]
    stream = norm.args[0]
    with module.graph.inserting_before(norm):
        total = module.graph.call_function(aten.add.Tensor, (stream, stream))
        total.meta = dict(stream.meta)  # type: ignore[union-attr]
        norm.update_arg(0, total)


def _norm_without_weights(module: GraphModule) -> None:
    norm = find(module, aten.layer_norm.default)[0]
    norm.args = (*norm.args[:2], None, None, *norm.args[4:])


@pytest.mark.parametrize("change", [_norm_added, _stream_read, _stream_doubled, _norm_without_weights])
def test_a_stream_that_others_read_stays(
    change: Callable[[GraphModule], None], caplog: pytest.LogCaptureFixture
) -> None:
    module = graph(plain_model())
    change(module)
    clean_up(module)
    before, kept = signature(module), constants(module)
    with caplog.at_level(logging.INFO, "packqvit_delegate.passes"):
        rotate_residual(module)
    assert caplog.text.count("the residual stream is not rotated") == 1
    assert signature(module) == before
    assert all(torch.equal(kept[name], value) for name, value in constants(module).items())


def test_values_that_something_else_reads_stay() -> None:
    module = graph(plain_model(projection="separate"))
    attention = next(iter(attentions(module)))
    output = next(node for node in module.graph.nodes if node.op == "output")
    with module.graph.inserting_before(output):
        total = module.graph.call_function(aten.sum.default, (attention.value,))
        output.args = ((*output.args[0], total),)
    weight = constant(module, attention.value.args[1])  # type: ignore[arg-type]
    rotate_values(module)
    assert torch.equal(constant(module, attention.value.args[1]), weight)  # type: ignore[arg-type]


BOTH = ["rotate_values", "rotate_residual"]


def record_rotations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the passes as they run."""
    called: list[str] = []

    def record(name: str, original: Callable[[GraphModule], GraphModule]) -> Callable[[GraphModule], GraphModule]:
        return lambda module: (called.append(name), original(module))[1]

    for name in BOTH:
        monkeypatch.setattr(preparation, name, record(name, getattr(preparation, name)))
    return called


@pytest.mark.parametrize(("rotation", "expected"), [(None, []), (True, BOTH)])
def test_training_is_rotated_on_request(
    rotation: bool | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    called, x = record_rotations(monkeypatch), images(4)
    qat.prepare(plain_model(), (x[:1],), x, method=CalibrationMethod(rotation=rotation))
    assert called == expected


@pytest.mark.parametrize(
    ("preset", "residual", "rotation", "expected"),
    [
        ("w4a4", "int16", None, BOTH),
        ("w4a8", "int16", None, BOTH),
        ("w8a8", "int16", None, []),
        ("w8a8", "int16", True, BOTH),
        ("w4a4", "int8", None, BOTH[:1]),
        ("w4a4", "int16", False, []),
    ],
)
def test_where_export_rotates(
    preset: str,
    residual: str,
    rotation: bool | None,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = record_rotations(monkeypatch)
    x = images(4)
    config = dataclasses.replace(QuantizationConfig.preset(preset), residual=residual)  # type: ignore[arg-type]
    batches, method = Batches(x, (x[:1],)), CalibrationMethod(rotation=rotation)
    module = preparation.float_graph(plain_model(), (x[:1],), batches, config, method)
    assert called == expected
    assert_same_function(module, graph(plain_model()))
