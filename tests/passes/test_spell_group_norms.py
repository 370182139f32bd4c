"""GroupNorms in means and products give what GroupNorms give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphs import Lambda, operators, run_pass, tensor
from models import export
from packqvit_delegate.passes.graph import aten, find
from packqvit_delegate.passes.reasons import reason_of, set_reason
from packqvit_delegate.passes.spell_group_norms import spell_group_norms


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 12])
def test_the_function_stays(groups: int, affine: bool) -> None:
    norm = nn.GroupNorm(groups, 12, eps=0.1, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    graph = run_pass(spell_group_norms, Lambda(lambda m, x: m.norm(x), norm=norm), 3 + 5 * tensor(2, 12, 7, 5))
    found = operators(graph)
    assert not found["group_norm.default"] and found["mean.dim"] == 2 and found["mul.Tensor"] == 2 + affine


def test_what_has_no_height_and_width_stays() -> None:
    model = Lambda(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 6))
    assert operators(run_pass(spell_group_norms, model, tensor(2, 6, 9)))["group_norm.default"] == 1


def test_each_part_tells_the_reason() -> None:
    graph = export(Lambda(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 6)), tensor(1, 6, 4, 4))
    (norm,) = find(graph, aten.group_norm.default)
    set_reason(norm, "because")
    spell_group_norms(graph)
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert {reason_of(node) for node in calls} == {"because"} and len(calls) > 8
    assert torch.isfinite(graph(tensor(1, 6, 4, 4))).all()
