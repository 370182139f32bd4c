"""A function as a text: what is written is read again, runs everywhere, and nothing else is read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from packqvit_delegate import PackQViTError
from packqvit_delegate.ops.function import Step, Value, evaluate_steps, parse, spell

aten, ops = torch.ops.aten, torch.ops.packqvit
X = Value(0)
TEXTS: dict[str, Callable[[Tensor], Tensor]] = {
    "v1 = mul.Tensor(x, 1.702); v2 = sigmoid.default(v1); v3 = mul.Tensor(x, v2)": lambda x: (
        x * torch.sigmoid(1.702 * x)
    ),
    "v1 = relu.default(x); v2 = square.default(v1)": lambda x: functional.relu(x).square(),
    "v1 = clamp.default(x, -0.5, None)": lambda x: x.clamp_min(-0.5),
    "v1 = clamp.default(x, -inf, 2)": lambda x: x.clamp_max(2),
    "v1 = maximum.default(x, 0.25)": lambda x: x.clamp_min(0.25),
    "v1 = gelu.default(x, approximate='tanh')": lambda x: functional.gelu(x, approximate="tanh"),
    "v1 = add.Tensor(x, x, alpha=-3)": lambda x: -2 * x,
    "v1 = gt.Scalar(x, 0); v2 = where.ScalarOther(v1, x, -1e-07)": lambda x: torch.where(x > 0, x, -1e-7),
    "v1 = div.Tensor(1.0, x)": lambda x: 1 / x,
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_it_says(text: str) -> None:
    x = torch.linspace(-3, 3, 50).reshape(2, 25)
    for values in (x, x.double()):
        found = ops.function.default(values, text)
        assert found.dtype == values.dtype and torch.equal(found, TEXTS[text](values))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(text: str) -> None:
    steps = parse(text)
    assert spell(steps) == text and parse(spell(steps)) == steps


def test_numbers_come_back_to_the_bit() -> None:
    for number in (0.1, 1 / 3, 1e-45, 5e300, -0.0, float("inf"), 7, True):
        (step,) = parse(spell([Step(aten.mul.Tensor, (X, number))]))
        assert step.args == (X, number) and type(step.args[1]) is type(number)
        assert repr(step.args[1]) == repr(number)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it is empty"),
        ("v1 = mul.Tensor(x,", "it cannot be read"),
        ("mul.Tensor(x, 2)", "statement 1 is not v1"),
        ("v1 = relu.default(x); v1 = relu.default(x)", "statement 2 is not v2"),
        ("v1 = v2", "statement 1 is not v1"),
        ("v1 = relu.default(v1)", "v1 is read before it is there"),
        ("v1 = nothing.default(x)", "nothing.default is no pointwise operator"),
        ("v1 = relu(x)", "relu is no pointwise operator"),
        ("v1 = relu.missing(x)", "relu.missing is no pointwise operator"),
        ("v1 = mul.Tensor.__class__(x)", "is no pointwise operator"),
        ("v1 = cumsum.default(x, 1)", "cumsum.default is no pointwise operator"),
        ("v1 = rrelu.default(x)", "rrelu.default is no pointwise operator"),
        ("v1 = relu_.default(x)", "relu_.default is no pointwise operator"),
        ("v1 = mul.Tensor(x, [1])", r"\[1\] is no value, number or word"),
        ("v1 = mul.Tensor(x, -None)", "-None is no value, number or word"),
    ],
)
def test_any_other_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(PackQViTError, match=f"packqvit.function is refused: .*{words}"):
        ops.function.default(torch.zeros(2), text)


def test_gradients_are_those_of_the_operators() -> None:
    text = next(iter(TEXTS))
    x = torch.linspace(-3, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda values: ops.function.default(values, text), (x,))


def test_it_stays_one_operator_in_an_export() -> None:
    text = "v1 = maximum.default(x, 0.25); v2 = square.default(v1)"

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ops.function.default(x, text)

    x = torch.linspace(-1, 1, 6)
    program = torch.export.export(Model(), (x,))
    assert [node.target for node in program.graph.nodes if node.op == "call_function"] == [ops.function.default]
    assert torch.equal(program.module()(x), x.clamp_min(0.25).square())
    spelled = program.run_decompositions().module()
    assert torch.equal(spelled(x), x.clamp_min(0.25).square())


def test_a_later_step_reads_any_earlier_one() -> None:
    steps = [
        Step(aten.exp.default, (X,)),
        Step(aten.add.Tensor, (Value(1), 1)),
        Step(aten.div.Tensor, (Value(1), Value(2))),
    ]
    x = torch.linspace(-4, 4, 9)
    torch.testing.assert_close(evaluate_steps(steps, x), torch.sigmoid(x))
