from __future__ import annotations

import torch
from torch import nn

from graphs import Lambda, operators, run_pass, tensor
from models import export
from packqvit_delegate.passes import fold_constants


def test_a_chain_of_constants_becomes_one() -> None:
    model = Lambda(lambda m, x: x + (m.token.expand(2, -1, -1) * 2).flatten(1) + torch.arange(4), token=tensor(1, 1, 4))
    graph_module = run_pass(fold_constants, model, tensor(2, 4))
    assert operators(graph_module) == {"add.Tensor": 2}
    assert len(dict(graph_module.named_buffers())) == 2


def test_a_result_of_parameters_is_a_parameter() -> None:
    model = Lambda(lambda m, x: x + m.token.expand(2, -1), token=nn.Parameter(tensor(1, 4)))
    graph_module = run_pass(fold_constants, model, tensor(2, 4))
    assert [parameter.shape for parameter in graph_module.parameters()] == [(2, 4)]


def test_splitting_a_constant() -> None:
    model = Lambda(lambda m, x: x * m.pair.unbind(0)[0] + m.pair.chunk(2)[1], pair=tensor(2, 4))
    assert operators(run_pass(fold_constants, model, tensor(3, 4))) == {"mul.Tensor": 1, "add.Tensor": 1}


def test_random_numbers_stay() -> None:
    graph_module = export(Lambda(lambda _, x: x + torch.rand(4)), tensor(2, 4))
    assert operators(fold_constants(graph_module)) == {"rand.default": 1, "add.Tensor": 1}


def test_a_constant_output() -> None:
    graph_module = run_pass(fold_constants, Lambda(lambda m, x: (x + 1, m.c * 2), c=tensor(3)), tensor(3))
    assert operators(graph_module) == {"add.Tensor": 1}
