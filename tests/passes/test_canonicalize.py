from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, Node

from models import CASES, FULL_CASES, Case, export, images, plain_model
from packqvit_delegate.errors import UnsupportedModelError
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.graph import constant, shape_of, signature

aten = torch.ops.aten
ALLOWED = {
    "aten.add.Tensor",
    "aten.cat.default",
    "aten.conv2d.default",
    "aten.gelu.default",
    "aten.layer_norm.default",
    "aten.linear.default",
    "aten.matmul.default",
    "aten.mean.dim",
    "aten.mul.Tensor",
    "aten.permute.default",
    "aten.reshape.default",
    "aten.select.int",
    "aten.slice.Tensor",
    "aten.softmax.int",
    "aten.transpose.int",
}


def operators(graph_module: GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in graph_module.graph.nodes if node.op == "call_function")


def calls(node: object, target: object, *args: object) -> bool:
    """Whether `node` calls `target`, with `args` behind its first argument."""
    return isinstance(node, Node) and node.target is target and list(map(plain, node.args[1:])) == list(args)


def plain(argument: object) -> object:
    return list(argument) if isinstance(argument, (list, tuple)) else argument


def check_attention(softmax: Node, bias: bool) -> None:
    batch, heads, tokens, _ = shape_of(softmax)
    assert calls(softmax, aten.softmax.int, -1) and not softmax.kwargs
    (scaled,) = softmax.args[:1]
    if bias:
        assert scaled.target is aten.add.Tensor and scaled.args[1].op == "get_attr"
        assert shape_of(scaled.args[1]) in {(b, h, tokens, tokens) for b in (1, batch) for h in (1, heads)}
        scaled = scaled.args[0]
    assert scaled.target is aten.mul.Tensor and type(scaled.args[1]) is float
    scores = scaled.args[0]
    assert scores.target is aten.matmul.default
    query, transposed = scores.args
    assert calls(transposed, aten.transpose.int, -2, -1)
    (values,) = softmax.users
    assert values.target is aten.matmul.default and values.args[0] is softmax
    linears = []
    for permute in (query, transposed.args[0], values.args[1]):
        assert calls(permute, aten.permute.default, [0, 2, 1, 3])
        split = permute.args[0]
        channels = shape_of(permute)[-1]
        assert calls(split, aten.reshape.default, [batch, tokens, heads, channels])
        assert split.args[0].target is aten.linear.default and len(split.args[0].users) == 1
        assert shape_of(split.args[0]) == (batch, tokens, heads * channels)
        linears.append(split.args[0])
    assert len(set(linears)) == 3 and len({linear.args[0] for linear in linears}) == 1
    (merged,) = values.users
    assert calls(merged, aten.permute.default, [0, 2, 1, 3])
    (output,) = merged.users
    assert calls(output, aten.reshape.default, [batch, tokens, heads * channels])
    (projection,) = output.users
    assert projection.target is aten.linear.default
    (residual,) = projection.users
    assert residual.target is aten.add.Tensor and residual.args[1] is projection


def check_embedding(graph_module: GraphModule, case: Case, position: bool) -> None:
    (conv,) = (node for node in graph_module.graph.nodes if node.target is aten.conv2d.default)
    batch, channels, height, width = shape_of(conv)
    (flat,) = conv.users
    assert calls(flat, aten.reshape.default, [batch, channels, height * width])
    (node,) = flat.users
    assert calls(node, aten.transpose.int, 1, 2)
    if position:
        tokens, (node,) = node, node.users
        assert node.target is aten.add.Tensor and node.args[0] is tokens and node.args[1].op == "get_attr"
        assert shape_of(node.args[1]) == (1, height * width, channels)
    if case.prefix:
        tokens, (node,) = node, node.users
        prefix = node.args[0][0]
        assert node.target is aten.cat.default and list(node.args[0]) == [prefix, tokens] and node.args[1:] == (1,)
        assert prefix.op == "get_attr" and shape_of(prefix) == (batch, case.prefix, channels)
    assert {user.target for user in node.users} <= {aten.layer_norm.default, aten.add.Tensor}


def check_values(graph_module: GraphModule) -> None:
    """Every tensor node has a fake value, and every parameter and buffer is used."""
    for node in graph_module.graph.nodes:
        if node.op in ("call_function", "get_attr", "placeholder"):
            assert isinstance(node.meta["val"], torch.Tensor), node
        if node.op == "get_attr":
            assert constant(graph_module, node).shape == node.meta["val"].shape
    used = {node.target for node in graph_module.graph.nodes if node.op == "get_attr"}
    assert {name for name, _ in graph_module.named_parameters()} <= used
    assert {name for name, _ in graph_module.named_buffers()} <= used


def check(case: Case, name: str) -> None:
    model = case.build()
    x = images(2, case.image)
    graph_module = canonicalize(export(model, x))
    with torch.no_grad():
        for inputs in (x, images(2, case.image, seed=1)):
            torch.testing.assert_close(graph_module(inputs), model(inputs), atol=1e-5, rtol=1e-4)
    counts = operators(graph_module)
    assert set(counts) <= ALLOWED
    assert counts["aten.linear.default"] == 6 * case.depth + case.head_linears
    assert counts["aten.softmax.int"] == counts["aten.gelu.default"] == case.depth
    assert counts["aten.matmul.default"] == 2 * case.depth
    assert counts["aten.layer_norm.default"] == case.norms
    bias = any(word in name for word in ("masked", "divided", "baddbmm"))
    position = "no_position" not in name
    tokens = counts["aten.add.Tensor"] - (2 + bias) * case.depth - position
    assert tokens == case.head_linears - 1
    assert counts["aten.mul.Tensor"] == case.depth
    assert counts["aten.cat.default"] == bool(case.prefix)
    assert counts["aten.permute.default"] == 4 * case.depth
    assert counts["aten.reshape.default"] == 4 * case.depth + 1
    assert counts["aten.transpose.int"] == case.depth + 1
    for node in graph_module.graph.nodes:
        if node.target is aten.softmax.int:
            check_attention(node, bias)
    check_embedding(graph_module, case, position)
    check_values(graph_module)
    before = signature(graph_module)
    assert signature(canonicalize(graph_module)) == before


@pytest.mark.parametrize("name", CASES)
def test_micro_model(name: str) -> None:
    check(CASES[name], name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_CASES)
def test_full_model(name: str) -> None:
    check(FULL_CASES[name], name)


def test_batch_of_one() -> None:
    model = plain_model(projection="chunk", attention="bmm", output="rows")
    x = images(1)
    graph_module = canonicalize(export(model, x))
    torch.testing.assert_close(graph_module(x), model(x), atol=1e-5, rtol=1e-4)
    assert operators(graph_module)["aten.reshape.default"] == 4 * 2 + 1


def test_parameters_stay_trainable() -> None:
    graph_module = canonicalize(export(plain_model(projection="chunk", layer_scale=True, embedding="registers")))
    graph_module(images()).square().sum().backward()
    assert not dict(graph_module.named_buffers())
    for name, parameter in graph_module.named_parameters():
        assert parameter.grad is not None, name


def test_quick_gelu_is_one_function() -> None:
    model = plain_model(activation="quick")
    graph_module = canonicalize(export(model))
    assert operators(graph_module)["packqvit.function.default"] == 2
    torch.testing.assert_close(graph_module(images()), model(images()), atol=1e-5, rtol=1e-4)


def test_a_graph_that_writes_is_refused() -> None:
    class Writes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 2).add_(1)

    graph_module = torch.export.export(Writes(), (torch.ones(2, 3),)).module()
    with pytest.raises(UnsupportedModelError, match=r"writes into tensors.*passes\.functionalize_graph"):
        canonicalize(graph_module)


def test_dynamic_shapes_are_refused() -> None:
    batch = torch.export.Dim("batch", min=2, max=8)
    program = torch.export.export(plain_model(), (images(),), dynamic_shapes=({0: batch},))
    with pytest.raises(UnsupportedModelError, match="static shapes"):
        canonicalize(program.module())
