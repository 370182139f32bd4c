"""Channel ranges of attention's values."""

from __future__ import annotations

import copy

import torch
from torch.fx import GraphModule

from models import MICRO, export, images, plain_model
from packqvit_delegate.passes import canonicalize, equalize_values
from packqvit_delegate.passes.graph import constant
from packqvit_delegate.passes.patterns import attentions
from packqvit_delegate.passes.recorder import sample_values


def graph(model: torch.nn.Module) -> GraphModule:
    return canonicalize(export(model, images(1)))


def batches(count: int = 8) -> list[tuple[torch.Tensor]]:
    return [(image,) for image in images(count, seed=3).split(1)]


def uneven_model() -> torch.nn.Module:
    """The values of some channels are up to 32 times as large as others, and count as much less behind."""
    model = plain_model(projection="separate")
    factor = torch.exp2(torch.linspace(0, 5, MICRO["dim"]))
    with torch.no_grad():
        for block in model.blocks:
            attention = block.attention
            attention.v.weight *= factor[:, None]
            attention.v.bias *= factor
            attention.proj.weight /= factor
    return model


def spread(module: GraphModule) -> float:
    """The largest range of an attention output's channels over the smallest, of all attentions the worst."""
    outputs = [attention.output for attention in attentions(module)]
    worst = 1.0
    for sample in sample_values(module, outputs, batches()).values():
        low, high = sample.channel_range()
        worst = max(worst, float((high - low).max() / (high - low).min()))
    return worst


def test_the_function_stays_and_channels_come_closer() -> None:
    module = graph(uneven_model())
    before = copy.deepcopy(module)
    equalize_values(module, batches(), lambda node: (-8, 7))
    x = images(1, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(module(x), before(x), rtol=0, atol=1e-4 * float(before(x).std()))
    assert spread(module) < 1.5 * spread(before) ** 0.5


def test_values_that_something_else_reads_stay() -> None:
    module = graph(uneven_model())
    attention = next(iter(attentions(module)))
    output = next(node for node in module.graph.nodes if node.op == "output")
    (result,) = output.args[0]
    with module.graph.inserting_before(output):
        total = module.graph.call_function(torch.ops.aten.sum.default, (attention.value,))
        output.args = ((module.graph.call_function(torch.ops.aten.add.Tensor, (result, total)),),)
    weight = constant(module, attention.value.args[1])  # type: ignore[arg-type]
    equalize_values(module, batches(), lambda node: (-8, 7))
    assert torch.equal(constant(module, attention.value.args[1]), weight)  # type: ignore[arg-type]


def test_wide_outputs_stay() -> None:
    module = graph(uneven_model())
    before = {node.name: constant(module, node) for node in module.graph.nodes if node.op == "get_attr"}
    equalize_values(module, batches(), lambda node: (-128, 127))
    after = {node.name: constant(module, node) for node in module.graph.nodes if node.op == "get_attr"}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
