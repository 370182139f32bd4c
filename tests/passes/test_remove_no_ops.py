from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphs import Lambda, operators, run_pass, tensor
from models import export
from packqvit_delegate.passes import remove_no_ops
from packqvit_delegate.passes.graph import shape_of

REMOVED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "dropout": lambda _, x: F.dropout(x, 0.5, training=False),
    "dropout_zero": lambda _, x: F.dropout(x, 0.0, training=True),
    "native_dropout": lambda _, x: torch.native_dropout(x, 0.5, False)[0],
    "feature_dropout": lambda _, x: torch.feature_dropout(x, 0.5, False),
    "identity": lambda _, x: nn.Identity()(x),
    "clone": lambda _, x: x.clone().contiguous().detach(),
    "expand": lambda _, x: x.expand(2, -1, 4),
    "same_dtype": lambda _, x: x.to(torch.float32).float().type_as(x),
    "full_slice": lambda _, x: x[:, 0:][..., :4],
    "view": lambda _, x: x.view(2, 3, 4),
    "two_reshapes": lambda _, x: x.reshape(6, 4).reshape(2, 3, 4),
    "permutes": lambda _, x: x.permute(1, 2, 0).permute(2, 0, 1),
    "transposes": lambda _, x: x.transpose(1, 2).swapaxes(-1, -2).mT.mT,
    "unsqueeze": lambda _, x: x.unsqueeze(1).squeeze(1),
    "reshape_there_and_back": lambda _, x: x.transpose(0, 1).reshape(3, 8).view(3, 2, 4).movedim(1, 0),
    "one": lambda _, x: 1.0 * x * 1 / 1.0,
    "zero": lambda _, x: 0 + x + 0.0 - 0,
    "constant_one": lambda m, x: x * m.one,
}


@pytest.mark.parametrize("name", REMOVED)
def test_no_op_is_removed(name: str) -> None:
    model = Lambda(lambda m, x: torch.relu(REMOVED[name](m, x)), one=torch.ones(()))
    assert operators(run_pass(remove_no_ops, model, tensor(2, 3, 4))) == {"relu.default": 1}


KEPT: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], dict[str, int]]] = {
    "double": (lambda _, x: x.to(torch.float64), {"to.dtype": 1}),
    "expand": (lambda _, x: x[:1].expand(2, -1, -1), {"slice.Tensor": 1, "expand.default": 1}),
    "slice": (lambda _, x: x[:, 1:], {"slice.Tensor": 1}),
    "every_other": (lambda _, x: x[:, ::2], {"slice.Tensor": 1}),
    "transpose": (lambda _, x: x.transpose(0, 1), {"transpose.int": 1}),
    "square_transpose": (lambda _, x: x[:, :, :3].transpose(1, 2), {"slice.Tensor": 1, "transpose.int": 1}),
    "broadcasting_one": (lambda m, x: x[:, :1] * m.ones, {"slice.Tensor": 1, "mul.Tensor": 1}),
    "parameter_one": (lambda m, x: x * m.parameter, {"mul.Tensor": 1}),
    "softmax_scale_one": (
        lambda _, x: x @ x.transpose(1, 2) * 1.0,
        {"transpose.int": 1, "matmul.default": 1, "mul.Tensor": 1},
    ),  # noqa: E501
    "integer_scale": (lambda _, x: x.long() * 2, {"to.dtype": 1, "mul.Tensor": 1}),
}


@pytest.mark.parametrize("name", KEPT)
def test_operator_with_an_effect_stays(name: str) -> None:
    function, expected = KEPT[name]
    model = Lambda(function, ones=torch.ones(1, 3, 4), parameter=nn.Parameter(torch.ones(())))
    assert operators(run_pass(remove_no_ops, model, tensor(2, 3, 4))) == expected


NORMAL: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "view": (lambda x: x.view(2, -1), "reshape.default"),
    "flatten": (lambda x: x.flatten(1), "reshape.default"),
    "unflatten": (lambda x: x.unflatten(-1, (2, 2)), "reshape.default"),
    "reshapes": (lambda x: x.view(6, 4).view(3, 8), "reshape.default"),
    "view_of_contiguous": (lambda x: x.transpose(0, 1).contiguous().view(3, 8), "reshape.default"),
    "movedim": (lambda x: x.movedim(0, 2), "permute.default"),
    "swapaxes": (lambda x: x.swapaxes(0, 2), "permute.default"),
    "mT": (lambda x: x.mT, "permute.default"),
    "sliced_token": (lambda x: x[:, 1:2].squeeze(1), "select.int"),
    "last_token": (lambda x: x[:, -1:].flatten(1), "select.int"),
    "division": (lambda x: x / 4, "mul.Tensor"),
    "left_scalar": (lambda x: 3 * x, "mul.Tensor"),
}


@pytest.mark.parametrize("name", NORMAL)
def test_normal_form(name: str) -> None:
    function, expected = NORMAL[name]
    graph_module = run_pass(remove_no_ops, Lambda(lambda _, x: function(x)), tensor(2, 3, 4))
    counts = operators(graph_module)
    counts.pop("transpose.int", None)
    assert counts == {expected: 1}
    for node in graph_module.graph.nodes:
        if node.target is torch.ops.aten.reshape.default:
            assert list(node.args[1]) == list(shape_of(node))


def test_dropout_in_training_stays() -> None:
    graph_module = export(Lambda(lambda _, x: F.dropout(x, 0.5, training=True)), tensor(2, 3))
    assert operators(remove_no_ops(graph_module)) == {"dropout.default": 1}


def test_the_output_may_be_the_input() -> None:
    graph_module = run_pass(remove_no_ops, Lambda(lambda _, x: x.contiguous()), tensor(2, 3))
    assert not operators(graph_module)


def test_pads_of_no_width_go() -> None:
    model = Lambda(lambda m, x: torch.nn.functional.pad(x, (0, 0, 0, 0)).relu() + torch.nn.functional.pad(x, (0, 0)))
    assert operators(run_pass(remove_no_ops, model, tensor(2, 3, 4))) == {"relu.default": 1, "add.Tensor": 1}
