"""Values of a plan that take one another's place, or that the runtime keeps in scratch memory."""

from __future__ import annotations

import packqvit_delegate.serialization.plan_generated as fb
from packqvit_delegate.serialization.placement import Placement


class Plan:
    """A plan of nodes with rows of int8."""

    def __init__(self) -> None:
        self.values: list[fb.ValueT] = []
        self.nodes: list[fb.NodeT] = []
        self.constants: list[fb.ConstantT] = []
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}

    def value(self, rows: int, columns: int, storage: int = fb.Storage.Arena) -> int:
        value = fb.ValueT()
        value.type, value.shape, value.storage, value.location = fb.DataType.Int8, [1, rows, columns], storage, 0
        self.values.append(value)
        return len(self.values) - 1

    def node(self, op: object, rows: int, columns: int, *reads: int) -> int:
        output = self.value(rows, columns)
        op.output = output  # type: ignore[attr-defined]
        node = fb.NodeT()
        node.op = op
        at = len(self.nodes)
        self.nodes.append(node)
        self.first[output] = self.last[output] = at
        self.last.update(dict.fromkeys(reads, at))
        return output

    def norm(self, x: int, rows: int, columns: int, map_: int = -1) -> int:
        op = fb.LayerNormT()
        op.x, op.rows = x, map_
        return self.node(op, rows, columns, x)

    def linear(self, x: int, rows: int, columns: int, residual: int = -1) -> int:
        weight = fb.ConstantT()
        weight.shape, weight.encoding = [columns, self.values[x].shape[-1]], fb.Encoding.Nibbles
        self.constants.append(weight)
        op = fb.LinearT()
        op.x, op.residual, op.weight = x, residual, len(self.constants) - 1
        return self.node(op, rows, columns, *(i for i in (x, residual) if i >= 0))

    def place(self) -> int:
        return Placement(self.values, self.nodes, self.first, self.last, self.constants).place()

    def at(self, value: int) -> int:
        return self.values[value].location


def test_a_sum_takes_the_place_of_its_residual() -> None:
    plan = Plan()
    stream = plan.linear(plan.value(8, 64, fb.Storage.Input), 8, 64)
    hidden = plan.linear(plan.norm(stream, 8, 64), 8, 128)
    total = plan.linear(hidden, 8, 64, residual=stream)
    again = plan.linear(plan.linear(plan.norm(total, 8, 64), 8, 128), 8, 64, residual=total)
    plan.place()
    assert plan.at(stream) == plan.at(total) == plan.at(again) != plan.at(hidden)


def test_a_norm_takes_the_place_of_rows_that_nothing_else_reads() -> None:
    plan = Plan()
    embedded = plan.linear(plan.value(8, 64, fb.Storage.Input), 8, 64)
    stream = plan.norm(embedded, 8, 64)
    moved = plan.norm(stream, 8, 64, map_=0)
    wide = plan.norm(moved, 8, 64)
    plan.values[wide].type = fb.DataType.Int16
    plan.linear(wide, 8, 64)
    plan.place()
    assert plan.at(stream) == plan.at(embedded) != plan.at(moved)
    assert plan.at(wide) != plan.at(moved)


def test_a_residual_that_is_needed_stays() -> None:
    plan = Plan()
    stream = plan.linear(plan.value(8, 64, fb.Storage.Input), 8, 64)
    total = plan.linear(plan.norm(stream, 8, 64), 8, 64, residual=stream)
    plan.linear(plan.norm(total, 8, 64), 8, 64, residual=stream)
    itself = plan.linear(total, 8, 64, residual=total)
    plan.place()
    assert plan.at(total) not in (plan.at(stream), plan.at(itself))


def test_a_residual_whose_rows_other_threads_gather_stays() -> None:
    plan = Plan()
    stream = plan.linear(plan.value(8, 64, fb.Storage.Input), 8, 64)
    gathered = plan.norm(stream, 8, 64, map_=0)
    total = plan.linear(gathered, 8, 64, residual=stream)
    plan.place()
    assert plan.at(total) != plan.at(stream)


def test_what_a_cut_chain_hands_on_lies_behind_the_rest() -> None:
    rows = 4096
    plan = Plan()
    stream = plan.linear(plan.value(rows, 64, fb.Storage.Input), rows, 64)
    start = plan.norm(stream, rows, 64, map_=0)
    hidden = plan.linear(start, rows, 256)
    behind = plan.linear(hidden, rows, 64)
    plan.norm(behind, rows, 64, map_=0)
    plan.linear(plan.value(rows, 64, fb.Storage.Input), rows, 64, residual=stream)
    plan.place()
    assert plan.at(hidden) > max(plan.at(stream), plan.at(behind))
