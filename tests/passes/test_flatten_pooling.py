from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import flatten_pooling


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes", [(1, 2), (-2, 1), (2, -3)])
def test_a_mean_over_a_map_is_one_over_tokens(axes: tuple[int, int], keep: bool) -> None:
    graph_module = run_pass(flatten_pooling, Lambda(lambda m, x: x.mean(axes, keepdim=keep)), tensor(2, 4, 3, 5))
    (mean,) = (node for node in graph_module.graph.nodes if "mean" in str(node.target))
    assert mean.args[1] == [1] and mean.args[0].meta["val"].shape == (2, 12, 5)


@pytest.mark.parametrize("axes", [(1,), (2,), (2, 3), (0, 1, 2), (1, 2, 3)])
def test_other_means_stay(axes: tuple[int, ...]) -> None:
    graph_module = run_pass(flatten_pooling, Lambda(lambda m, x: x.mean(axes)), tensor(2, 4, 3, 5))
    assert operators(graph_module) == {"mean.dim": 1}


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: torch.nn.functional.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 1).flatten(1),
        lambda m, x: torch.nn.functional.adaptive_avg_pool1d(x.flatten(1, 2).transpose(1, 2), 1).flatten(1),
        lambda m, x: x.permute(0, 3, 1, 2).mean((2, 3)),
        lambda m, x: x.transpose(1, 2).mean((1, 2), keepdim=True),
    ],
)
def test_pooling_to_one_value_of_moved_axes_is_the_mean_over_tokens(function: Callable) -> None:
    graph_module = run_pass(flatten_pooling, Lambda(function), tensor(2, 4, 3, 5))
    (mean,) = (node for node in graph_module.graph.nodes if "mean" in str(node.target))
    assert mean.args[1] == [1] and mean.args[0].meta["val"].shape == (2, 12, 5)
    assert not {"permute.default", "transpose.int"} & set(operators(graph_module))


@pytest.mark.parametrize("size", [2, (1, 2)])
def test_other_poolings_stay(size: int | tuple[int, int]) -> None:
    model = Lambda(lambda m, x: torch.nn.functional.adaptive_avg_pool2d(x, size))
    assert operators(run_pass(flatten_pooling, model, tensor(2, 3, 4, 4))) == {"adaptive_avg_pool2d.default": 1}
