from __future__ import annotations

import torch
from torch import nn

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import orient_residual

aten = torch.ops.aten


def additions(graph_module: torch.fx.GraphModule) -> list[tuple[str, str]]:
    nodes = (node for node in graph_module.graph.nodes if node.target is aten.add.Tensor)
    return [tuple(str(getattr(argument, "target", argument)) for argument in node.args) for node in nodes]


def test_branch_goes_second() -> None:
    model = Lambda(lambda m, x: m.fc(m.fc(x) + x) + m.fc(x).relu(), fc=nn.Linear(4, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4), atol=0)
    assert additions(graph_module) == [("x", "aten.linear.default"), ("aten.relu.default", "aten.linear.default")]


def test_stream_first_stays() -> None:
    graph_module = run_pass(orient_residual, Lambda(lambda m, x: x + m.fc(x), fc=nn.Linear(4, 4)), tensor(2, 3, 4))
    assert additions(graph_module) == [("x", "aten.linear.default")]


def test_what_is_no_residual_stays() -> None:
    def forward(m: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weighted = torch.add(m.fc(x), x, alpha=2)
        return m.fc(x) + m.fc2(x), m.fc(x) + m.offset, m.fc(x) + 1, weighted, m.fc(x) + x[:1]

    model = Lambda(forward, fc=nn.Linear(4, 4), fc2=nn.Linear(4, 4), offset=tensor(2, 3, 4))
    graph_module = run_pass(orient_residual, model, tensor(2, 3, 4))
    assert operators(graph_module)["add.Tensor"] == 5
    assert all(first == "aten.linear.default" for first, _ in additions(graph_module))
