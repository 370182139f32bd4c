from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import fold_constants, normalize_indices

PICKS: dict[str, Callable] = {
    "list": lambda m, x: x[:, [4, 0, 2]],
    "from_the_end": lambda m, x: x[:, [-1, 0]],
    "buffer": lambda m, x: x[:, m.index],
    "several_axes": lambda m, x: x[:, m.index.reshape(2, 2)],
    "last_axis": lambda m, x: x[..., m.index],
}


@pytest.mark.parametrize("name", PICKS)
def test_picking_by_a_constant_is_index_select(name: str) -> None:
    model = Lambda(PICKS[name], index=torch.tensor([1, 4, 0, 3]))
    graph_module = run_pass(lambda module: normalize_indices(fold_constants(module)), model, tensor(2, 6, 5), atol=0)
    assert set(operators(graph_module)) - {"reshape.default"} == {"index_select.default"}


def test_picking_along_two_axes_stays() -> None:
    model = Lambda(lambda m, x: x[:, m.index, m.index], index=torch.tensor([1, 4, 0, 3]))
    graph_module = run_pass(lambda module: normalize_indices(fold_constants(module)), model, tensor(2, 6, 5))
    assert operators(graph_module) == {"index.Tensor": 1}
