"""Running a graph node by node."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import fx

from models import images, plain_model, timm_model
from packqvit_delegate import QuantizationConfig
from packqvit_delegate.calibration import sequential
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.calibration.breadth_first import Stream, fleeting_values, last_uses
from packqvit_delegate.passes.graph import aten
from packqvit_delegate.preparation import make_pair


def _graph() -> tuple[fx.GraphModule, list[fx.Node]]:
    graph = fx.Graph()
    x = graph.placeholder("x")
    relu = graph.call_function(aten.relu.default, (x,))
    total = graph.call_function(aten.add.Tensor, (relu, relu))
    graph.output((total,))
    return fx.GraphModule(torch.nn.Module(), graph), [x, relu, total]


def test_a_dying_value_is_freed_batch_by_batch() -> None:
    module, (x, relu, total) = _graph()
    stream = Stream(module, [(torch.tensor([[-1.0, float(i)]]),) for i in range(3)], 1)
    stream.run(x)
    stream.run(relu)
    held = [weakref.ref(value) for value in stream[relu]]
    alive: list[int] = []

    def watched(value: torch.Tensor) -> torch.Tensor:
        alive.append(sum(reference() is not None for reference in held))
        return value + value

    stream.apply(total, relu, watched, dying=[relu])
    assert alive == [3, 2, 1]
    assert [value.tolist() for value in stream[total]] == [[[0.0, 2.0 * i]] for i in range(3)]


def test_what_was_passed_on_outlives_its_source() -> None:
    module, (x, relu, total) = _graph()
    stream = Stream(module, [(torch.ones(1, 2),), (2 * torch.ones(1, 2),)], 1)
    stream.run(x)
    stream.pass_on(relu, x)
    stream.run(total, dying=[relu])
    assert [value.tolist() for value in stream[total]] == [[[2.0, 2.0]], [[4.0, 4.0]]]
    assert [value.tolist() for value in stream[x]] == [[[1.0, 1.0]], [[2.0, 2.0]]]


def test_relative_positions_are_fleeting() -> None:
    model = timm_model("samvit_base_patch16_224", img_size=32, window_size=0, depth=1, num_classes=0, neck_chans=0)
    x = images(4, size=32)
    prepared = make_pair(model, (x[:1],), Batches(x, (x[:1],)), QuantizationConfig()).prepared
    (added,) = prepared.graph.find_nodes(op="call_function", target=torch.ops.packqvit.relative_bias.default)
    assert added in fleeting_values(prepared)


def test_scores_and_probabilities_are_fleeting() -> None:
    x = images(4)
    prepared = make_pair(plain_model(attention="masked"), (x[:1],), Batches(x, (x[:1],)), QuantizationConfig()).prepared
    fleeting = fleeting_values(prepared)
    found = [node.target for node in prepared.graph.nodes if node in fleeting and node.op == "call_function"]
    assert found == 2 * [aten.matmul.default, aten.mul.Tensor, aten.add.Tensor, aten.softmax.int]
    assert len(fleeting) == 10  # and the observers of the probabilities
    last = {value: node for node, values in last_uses(prepared, fleeting).items() for value in values}
    assert not fleeting.intersection(last)
    for product in (node for node in fleeting if node.target is aten.matmul.default):
        assert last[product.args[0]].target is last[product.args[1]].target is aten.matmul.default


def test_what_is_computed_anew_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(12)
    config = QuantizationConfig()

    def state() -> list[torch.Tensor]:
        pair = make_pair(plain_model(attention="masked", pool="mean"), (x[:1],), Batches(x, (x[:1],)), config)
        return [*pair.prepared.state_dict().values(), pair.prepared(x[:1])]

    anew = state()
    monkeypatch.setattr(sequential, "fleeting_values", lambda graph_module: set())
    assert all(torch.equal(a, b) for a, b in zip(anew, state(), strict=True))
