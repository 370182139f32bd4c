from __future__ import annotations

import pytest

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
