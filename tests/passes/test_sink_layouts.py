from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import remove_no_ops, sink_layouts


def sink(graph_module: GraphModule) -> GraphModule:
    return remove_no_ops(sink_layouts(remove_no_ops(graph_module)))


def test_token_first_becomes_batch_first() -> None:
    def mlp(m: nn.Module, x: Tensor) -> Tensor:
        y = x.transpose(0, 1)
        return (y + m.fc2(F.gelu(m.fc1(m.norm(y))))).transpose(0, 1)

    model = Lambda(mlp, norm=nn.LayerNorm(8), fc1=nn.Linear(8, 16), fc2=nn.Linear(16, 8))
    counts = operators(run_pass(sink, model, tensor(2, 5, 8)))
    assert counts == {"layer_norm.default": 1, "linear.default": 2, "gelu.default": 1, "add.Tensor": 1}


def test_rows_become_batch_first() -> None:
    model = Lambda(lambda m, x: m.fc(x.reshape(10, 8)).view(2, 5, 4), fc=nn.Linear(8, 4))
    assert operators(run_pass(sink, model, tensor(2, 5, 8))) == {"linear.default": 1}


def test_what_exchanges_channels_stays_in_front() -> None:
    model = Lambda(lambda m, x: m.fc(x.transpose(1, 2)), fc=nn.Linear(8, 4))
    graph_module = run_pass(sink, model, tensor(2, 8, 8))
    (linear,) = (node for node in graph_module.graph.nodes if "linear" in str(node.target))
    assert "transpose" in str(linear.args[0].target)


def test_a_split_of_channels_stays_in_front() -> None:
    model = Lambda(lambda m, x: m.fc(x.reshape(2, 10, 4)), fc=nn.Linear(4, 4))
    assert operators(run_pass(sink, model, tensor(2, 5, 8))) == {"reshape.default": 1, "linear.default": 1}
