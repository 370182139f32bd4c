from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from graphs import Lambda, operators, run_pass, tensor
from packqvit_delegate.passes import flatten_pooling

aten = torch.ops.aten


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes", [(1, 2), (-2, 1), (2, -3)])
def test_a_mean_over_a_map_is_one_over_tokens(axes: tuple[int, int], keep: bool) -> None:
    graph_module = run_pass(flatten_pooling, Lambda(lambda m, x: x.mean(axes, keepdim=keep)), tensor(2, 4, 3, 5))
    (mean,) = (node for node in graph_module.graph.nodes if "mean" in str(node.target))
    assert mean.args[1] == [1] and mean.args[0].meta["val"].shape == (2, 12, 5)


@pytest.mark.parametrize("axes", [(3,), (0, 1), (2, 3), (0, 1, 2), (1, 2, 3)])
def test_other_means_stay(axes: tuple[int, ...]) -> None:
    graph_module = run_pass(flatten_pooling, Lambda(lambda m, x: x.mean(axes)), tensor(2, 4, 3, 5))
    assert operators(graph_module) == {"mean.dim": 1}


GROUPS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "consecutive": (lambda m, x: x.unflatten(1, (6, 4)).amax(2), (12, 4, 5)),
    "strided": (lambda m, x: x.unflatten(1, (4, 6)).amax(1), (12, 4, 5)),
    "rows": (lambda m, x: x.unflatten(1, (4, 6)).mean(1, keepdim=True), (12, 4, 5)),
    "windows": (lambda m, x: x.unflatten(1, (2, 2, 3, 2)).amax((2, 4)), (12, 4, 5)),
    "two_at_once": (lambda m, x: x.unflatten(1, (2, 12)).max(1).values.max(1).values, (2, 24, 5)),
    "means_of_means": (lambda m, x: x.unflatten(1, (4, 6)).mean(2).mean(1, keepdim=True), (2, 24, 5)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_groups_of_tokens_are_pooled_as_images(name: str) -> None:
    function, shape = GROUPS[name]
    graph_module = run_pass(flatten_pooling, Lambda(function), tensor(2, 24, 5), atol=1e-6)
    (pooling,) = (n for n in graph_module.graph.nodes if n.target in (aten.mean.dim, aten.amax.default))
    assert pooling.args[1] == [1] and pooling.args[0].meta["val"].shape == shape


MAXIMA: dict[str, Callable] = {
    "amax": lambda m, x: x.amax(1),
    "max": lambda m, x: x.max(1).values,
    "max_with_its_axis": lambda m, x: torch.max(x, dim=-2, keepdim=True)[0],
    "max_pool": lambda m, x: torch.nn.functional.max_pool1d(x.transpose(1, 2), 12).squeeze(-1),
    "adaptive": lambda m, x: torch.nn.functional.adaptive_max_pool1d(x.transpose(1, 2), 1).flatten(1),
    "of_a_map": lambda m, x: torch.nn.functional.adaptive_max_pool2d(x.mT.unflatten(2, (4, 3)), 1).flatten(1),
    "whole_map": lambda m, x: torch.nn.functional.max_pool2d(x.mT.unflatten(2, (4, 3)), (4, 3)).flatten(1),
}


@pytest.mark.parametrize("name", MAXIMA)
def test_every_maximum_over_tokens_is_one(name: str) -> None:
    graph_module = run_pass(flatten_pooling, Lambda(MAXIMA[name]), tensor(2, 12, 5))
    assert operators(graph_module)["amax.default"] == 1
    left = set(operators(graph_module)) - {"amax.default", "reshape.default", "squeeze.dim", "flatten.using_ints"}
    assert left <= {"transpose.int", "unflatten.int", "mT.default"}


def test_maxima_whose_places_are_read_stay() -> None:
    graph_module = run_pass(flatten_pooling, Lambda(lambda m, x: torch.max(x, 1)), tensor(2, 12, 5))
    assert operators(graph_module)["max.dim"] == 1 and "amax.default" not in operators(graph_module)


def test_poolings_of_whole_windows_are_means() -> None:
    model = Lambda(lambda m, x: torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), (4, 3)).flatten(1))
    graph_module = run_pass(flatten_pooling, model, tensor(2, 4, 3, 5))
    (mean,) = (node for node in graph_module.graph.nodes if node.target is aten.mean.dim)
    assert mean.args[1] == [1] and mean.args[0].meta["val"].shape == (2, 12, 5)


@pytest.mark.parametrize("kernel", [(2, 3), (4, 2)])
def test_poolings_of_parts_of_a_map_stay(kernel: tuple[int, int]) -> None:
    for pool in (torch.nn.functional.avg_pool2d, torch.nn.functional.max_pool2d):
        model = Lambda(lambda m, x, pool=pool: pool(x, kernel))
        assert not {"mean.dim", "amax.default"} & set(operators(run_pass(flatten_pooling, model, tensor(2, 5, 4, 3))))


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
