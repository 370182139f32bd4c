from __future__ import annotations

import torch
from torch import Tensor, nn

from graphs import Lambda, run_pass, tensor
from packqvit_delegate.passes.graph import aten, find
from packqvit_delegate.passes.mark_activations import mark_activations

C = 4
activation = torch.ops.packqvit.activation.default


def marked(function: object) -> list[int]:
    """How many linears read each `activation`."""
    modules = {name: nn.Linear(C, C) for name in ("a", "b", "c", "d")}
    model = Lambda(function, norm=nn.LayerNorm(C), wide=nn.Linear(2 * C, C), **modules)  # type: ignore[arg-type]
    graph_module = run_pass(mark_activations, model, tensor(2, 6, C))
    return [len(node.users) for node in find(graph_module, activation)]


def test_linears_that_read_the_stream_share_one() -> None:
    assert marked(lambda m, x: x + m.a(m.b(x) * m.c(x))) == [2]


def test_other_tokens_have_their_own() -> None:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        moved = x.roll(1, 1), x.roll(1, 1), x.roll(2, 1)
        return x + m.a(m.b(moved[0]) * m.c(moved[1]) * m.d(moved[2]))

    assert marked(forward) == [2, 1]


def test_a_sum_is_a_stream_and_so_is_what_merging_makes_of_it() -> None:
    assert marked(lambda m, x: m.wide((x + m.a(m.norm(x))).reshape(2, 3, 2 * C))) == [1]


def test_behind_a_post_norm() -> None:
    assert marked(lambda m, x: m.b((y := x.sin()).relu() + m.norm(m.a(y).relu()))) == [1]


def test_what_is_no_stream_has_none() -> None:
    assert marked(lambda m, x: x + m.a(m.b(m.norm(x)).relu())) == []
    assert marked(lambda m, x: m.c(m.a(y := x.sin()) * m.b(y))) == []


def test_an_input_is_read_as_a_stream_is() -> None:
    assert marked(lambda m, x: m.c(m.a(x) * m.b(x))) == [2]
    assert marked(lambda m, x: m.wide(x.reshape(2, 3, 2 * C))) == [1]


def test_marks_survive_a_second_look() -> None:
    graph_module = run_pass(mark_activations, Lambda(lambda m, x: x + m.a(x), a=nn.Linear(C, C)), tensor(2, 6, C))
    (linear,) = find(graph_module, aten.linear.default)
    assert linear.args[0] is find(graph_module, activation)[0]


def test_linears_share_what_the_model_gives_out() -> None:
    def forward(m: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
        y = m.norm(x.sin())
        return y, m.a(y[:, 0]), m.b(y[:, 0]), m.c(y), m.d(y.mean(1))

    assert marked(forward) == [2, 1]  # the mean has codes of its own


def test_a_linear_or_a_mean_is_shared_like_a_norm() -> None:
    assert marked(lambda m, x: (lambda y: (y, m.b(y)))(m.a(x.sin()))) == [1]
    assert marked(lambda m, x: (lambda y: (y.tanh(), m.b(y)))(x.sin().mean(1))) == [1]


def test_what_is_taken_apart_elsewhere_is_shared() -> None:
    assert marked(lambda m, x: (lambda y: (y.transpose(1, 2), m.a(y)))(m.norm(x.sin()))) == [1]


def test_linears_alone_need_none() -> None:
    assert marked(lambda m, x: (lambda y: (m.a(y), m.b(y[:, 1:].mean(1)), m.c(y.roll(1, 1))))(m.norm(x.sin()))) == []
