"""Windows, shift masks and merging: the program that copies no tokens gives the bits of the graph that does."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
import torch
from executorch.extension.pybindings import portable_lib
from torch import Tensor, nn

import packqvit_delegate.serialization.plan_generated as fb
from conformance.cases import Random
from packqvit_delegate import Program, lower, runtime
from packqvit_delegate.passes import hoist_token_select
from packqvit_delegate.serialization.blob import MAGIC, unwrap_plan

ops = torch.ops.packqvit

SIDE, WINDOW, CHANNELS, HEADS = 6, 3, 16, 2
TOKENS, SIZE = SIDE * SIDE, WINDOW * WINDOW
WINDOWS = TOKENS // SIZE


def partition(values: Tensor) -> Tensor:
    """A map [SIDE, SIDE] as windows [WINDOWS, SIZE]."""
    per_side = SIDE // WINDOW
    return values.reshape(per_side, WINDOW, per_side, WINDOW).transpose(1, 2).reshape(WINDOWS, SIZE)


def regions(shift: int) -> Tensor:
    """For each token of each window its region: what is next to each other in the map that was shifted."""
    line = torch.zeros(SIDE, dtype=torch.int64)
    if shift:
        line[-WINDOW:-shift], line[-shift:] = 1, 2
    return partition(3 * line[:, None] + line).to(torch.uint8)


def window_order(shift: int) -> list[int]:
    """Which token of an image each token of its shifted windows is."""
    return partition(torch.arange(TOKENS).reshape(SIDE, SIDE).roll((-shift, -shift), (0, 1))).flatten().tolist()


# The four tokens of each 2 x 2 square, as Swin puts their channels side by side.
MERGED = torch.arange(TOKENS).reshape(SIDE // 2, 2, SIDE // 2, 2).permute(0, 2, 3, 1).flatten().tolist()


class Layers(nn.Module):
    """Random parameters of the integer operators, as buffers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)

    def keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value)

    def requantizer(self, name: str, channels: int, shift: int) -> None:
        r = self._random
        self.keep(f"{name}_multiplier", r.integers(1 << 14, (1 << 15) - 1, (channels,), torch.int16))
        self.keep(f"{name}_shift", r.integers(shift, shift + 2, (channels,), torch.uint8))

    def norm(self, name: str, channels: int) -> None:
        r = self._random
        self.keep(f"{name}_weight", r.integers(-20000, 20000, (channels,), torch.int16))
        self.keep(f"{name}_bias", r.integers(-(1 << 20), 1 << 20, (channels,), torch.int32))

    def linear(self, name: str, inputs: int, outputs: int, shift: int) -> None:
        r = self._random
        self.keep(f"{name}_weight", r.integers(-127, 127, (outputs, inputs), torch.int8))
        self.keep(f"{name}_bias", r.integers(-2000, 2000, (outputs,), torch.int32))
        self.requantizer(name, outputs, shift)
        self.keep(f"{name}_ratio", r.integers(28000, 32767, (outputs,), torch.int16))  # of a residual

    def apply_norm(self, name: str, x: Tensor) -> Tensor:
        get = functools.partial(getattr, self)
        return ops.layer_norm(x, None, get(f"{name}_weight"), get(f"{name}_bias"), 77, 20, -128, 127)

    def apply_linear(self, name: str, x: Tensor, *, residual: Tensor | None = None) -> Tensor:
        parts = [getattr(self, f"{name}_{part}") for part in ("weight", "bias", "multiplier", "shift")]
        if residual is None:
            return ops.linear(x, *parts, 8, 0, 6, 0, -127, 127)
        return ops.linear_add(x, *parts, residual, getattr(self, f"{name}_ratio"), 8, 0, 0)


class Stage(Layers):
    """Blocks of a Swin transformer on int16 tokens [B, TOKENS, CHANNELS], then patch merging."""

    def __init__(self, log2: bool, shifts: tuple[int, ...], seed: int = 0) -> None:
        super().__init__(seed)
        self.log2, self.shifts = log2, shifts
        self.orders = [window_order(shift) for shift in shifts]  # lists: an export would trace their computation
        self.inverses = [torch.tensor(order).argsort().tolist() for order in self.orders]
        for i, shift in enumerate(shifts):
            self.norm(f"norm{i}", CHANNELS)
            for name in ("q", "k", "v"):
                self.linear(f"{name}{i}", CHANNELS, CHANNELS, 1)
            self.linear(f"proj{i}", CHANNELS, CHANNELS, 0)
            self.norm(f"mlp_norm{i}", CHANNELS)
            self.linear(f"fc1{i}", CHANNELS, 4 * CHANNELS, 1)
            self.linear(f"fc2{i}", 4 * CHANNELS, CHANNELS, 1)
            self.requantizer(f"values{i}", CHANNELS, 7 if log2 else 1)
            self.keep(f"relative{i}", self._random.integers(-20000, 2000, (HEADS, SIZE, SIZE), torch.int32))
            self.keep(f"groups{i}", regions(shift))
        self.norm("merge_norm", 4 * CHANNELS)
        self.linear("reduction", 4 * CHANNELS, 2 * CHANNELS, 2)  # to rows of as many bytes as the stream has
        self.linear("head", 2 * CHANNELS, CHANNELS, 2)

    def attention(self, i: int, x: Tensor) -> Tensor:
        q, k, v = (self.apply_linear(f"{name}{i}", x) for name in ("q", "k", "v"))
        groups = getattr(self, f"groups{i}") if self.shifts[i] else None
        scores = ops.attention_scores(q, k, HEADS)
        p = ops.softmax(scores, getattr(self, f"relative{i}"), 20000, 1, self.log2, groups)
        multiplier, shift = getattr(self, f"values{i}_multiplier"), getattr(self, f"values{i}_shift")
        return ops.attention_values(p, v, multiplier, shift, self.log2, 0, 6, 0, -128, 127)

    def block(self, i: int, x: Tensor) -> Tensor:
        windows = ops.select_tokens(x, self.orders[i]).reshape(-1, SIZE, CHANNELS)
        y = self.attention(i, self.apply_norm(f"norm{i}", windows)).reshape(-1, TOKENS, CHANNELS)
        y = ops.select_tokens(y, self.inverses[i])
        x = self.apply_linear(f"proj{i}", y, residual=x)
        hidden = self.apply_linear(f"fc1{i}", self.apply_norm(f"mlp_norm{i}", x))
        return self.apply_linear(f"fc2{i}", hidden, residual=x)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(len(self.shifts)):
            x = self.block(i, x)
        return self.merge(x)

    def merge(self, x: Tensor) -> Tensor:
        merged = ops.select_tokens(x, MERGED).reshape(-1, TOKENS // 4, 4 * CHANNELS)
        return self.apply_linear("head", self.apply_linear("reduction", self.apply_norm("merge_norm", merged)))


def tokens(batch: int, seed: int = 1) -> Tensor:
    return Random(seed).integers(-30000, 30000, (batch, TOKENS, CHANNELS), torch.int16)


Results = Tensor | tuple[Tensor, ...]


def tuple_of(results: Results) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def assert_same_bits(program: Program, module: nn.Module, *inputs: Tensor) -> None:
    actual, expected = runtime.load(program.buffer).run(*inputs), tuple_of(module(*inputs))
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def program_of(module: nn.Module, x: Tensor) -> Program:
    return lower(torch.export.export(module.eval(), (x,)).module(), (x,))


def operators(program: Program) -> Counter[str]:
    """How many nodes of each operator the plan of a program has."""
    plan = plan_of(program)
    return Counter(type(node.op).__name__.removesuffix("T") for node in plan.nodes)


def plan_of(program: Program) -> fb.PlanT:
    buffer = program.buffer
    assert buffer.count(MAGIC) == 1
    return fb.PlanT.InitFromPackedBuf(unwrap_plan(buffer[buffer.index(MAGIC) :]))


@pytest.fixture(params=[1, 2], ids=["one_thread", "two_threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = portable_lib._threadpool_get_thread_count()
    portable_lib._unsafe_reset_threadpool(request.param)
    yield
    portable_lib._unsafe_reset_threadpool(before)


@functools.cache
def stage(log2: bool, batch: int) -> tuple[Stage, Program]:
    module = Stage(log2, (0, 1))
    return module, program_of(module, tokens(batch))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("log2", [True, False])
def test_stage(log2: bool, batch: int, threads: None) -> None:
    module, program = stage(log2, batch)
    assert program.report.is_whole, program.report.render()
    for seed in (1, 2):
        x = tokens(batch, seed)
        assert len(module(x).unique()) > 50
        assert_same_bits(program, module, x)


def test_no_tokens_are_copied() -> None:
    found = operators(stage(True, 2)[1])
    assert "SelectTokens" not in found
    assert found == Counter({"LayerNorm": 5, "Linear": 14, "Attention": 2})
    assert [node.op.rows for node in plan_of(stage(True, 2)[1]).nodes if hasattr(node.op, "rows")].count(-1) == 2


def _bytes_of(value: fb.ValueT) -> range:
    sizes = {fb.DataType.Int8: 1, fb.DataType.Int16: 2}
    return range(value.location, value.location + math.prod(value.shape) * sizes[value.type])


def _disjoint(a: fb.ValueT, b: fb.ValueT) -> bool:
    return a.storage != b.storage or not set(_bytes_of(a)) & set(_bytes_of(b))


class Merging(Stage):
    """Merging of a stream that nothing else reads."""

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.apply_linear("proj0", self.apply_norm("norm0", x), residual=x))


def test_nothing_is_written_over_rows_that_other_threads_may_read() -> None:
    """The linears behind a layer norm run in one chain with it, in which each thread goes its own way."""
    plan = plan_of(program_of(Merging(True, (0,)), tokens(2)))
    checked = 0
    for at, node in enumerate(plan.nodes):
        if isinstance(node.op, fb.LayerNormT) and node.op.rows != -1:
            chain = itertools.takewhile(lambda other: isinstance(other.op, fb.LinearT), plan.nodes[at + 1 :])
            for written in (node.op.output, *(other.op.output for other in chain)):
                assert _disjoint(plan.values[node.op.x], plan.values[written])
                checked += plan.values[node.op.x].storage == plan.values[written].storage == fb.Storage.Arena
    assert checked == 2


class Moved(Layers):
    """One layer norm, on whatever tokens a function takes; what else that gives is an output."""

    def __init__(self, move: Callable[[Tensor], Results], channels: int) -> None:
        super().__init__(3)
        self.move = move
        self.norm("norm", channels)

    def forward(self, x: Tensor) -> Results:
        moved, *others = tuple_of(self.move(x))
        return self.apply_norm("norm", moved), *others


FUSED: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "reversed": (16, lambda x: ops.select_tokens(x, list(range(TOKENS))[::-1])),
    "dropped": (16, lambda x: ops.select_tokens(x, [7])),
    "repeated": (16, lambda x: ops.select_tokens(x, [7, 7, 0, 1, 2, 3, 3, 35])),
    "strips": (16, lambda x: ops.select_tokens(x.reshape(-1, 9, 16), [0, 3, 6, 1, 2, 4, 5, 7, 8])),
    "merged": (64, lambda x: ops.select_tokens(x, MERGED).reshape(-1, 9, 64)),
    "merged_in_place": (48, lambda x: ops.select_tokens(x, [0, 1, 2, 6, 7, 8, 3, 5, 4, 33, 34, 35]).reshape(-1, 4, 48)),
    "in_rows": (16, lambda x: ops.select_tokens(x, [5, 4, 3]).reshape(-1, 16)),
}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
@pytest.mark.parametrize("name", FUSED)
def test_layer_norm_reads_rows_where_they_are(name: str, dtype: torch.dtype) -> None:
    channels, move = FUSED[name]
    x = Random(4).integers(-100, 100, (2, TOKENS, CHANNELS), dtype)
    module = Moved(move, channels)
    program = program_of(module, x)
    assert operators(program) == Counter({"LayerNorm": 1})
    assert_same_bits(program, module, x)


def select_twice(x: Tensor) -> Results:
    y = ops.select_tokens(x, [2, 1])
    return y, ops.select_tokens(y, [1])


def select_and_show(x: Tensor) -> Results:
    y = ops.select_tokens(x, [2, 1])
    return y, y


COPIED: dict[str, tuple[int, Callable[[Tensor], Results]]] = {
    "read_twice": (16, select_twice),
    "an_output_of_the_program": (16, select_and_show),
}


@pytest.mark.parametrize("name", COPIED)
def test_what_is_copied(name: str) -> None:
    channels, move = COPIED[name]
    x = Random(4).integers(-100, 100, (2, TOKENS, CHANNELS), torch.int8)
    module = Moved(move, channels)
    program = program_of(module, x)
    assert operators(program)["SelectTokens"] >= 1
    assert_same_bits(program, module, x)


class Attended(Stage):
    """An attention on windows [B * WINDOWS, SIZE, CHANNELS], and what a function makes of its result."""

    def __init__(self, move: Callable[[Tensor], Results]) -> None:
        super().__init__(False, (1,))
        self.move = move

    def forward(self, x: Tensor) -> Results:
        return self.move(self.attention(0, x))


def selects(order: list[int], group: int) -> Callable[[Tensor], Tensor]:
    return lambda y: ops.select_tokens(y.reshape(-1, group, CHANNELS), order)


def attend_and_show(y: Tensor) -> Results:
    return ops.select_tokens(y, list(range(SIZE))[::-1]), y


ROTATED = [*range(4, TOKENS), *range(4)]
MOVES: dict[str, tuple[Callable[[Tensor], Results], bool]] = {
    "over_the_map": (selects(ROTATED, TOKENS), True),
    "within_the_window": (selects([8, 0, 1, 2, 4, 3, 5, 6, 7], SIZE), True),
    "within_part_of_a_window": (selects([2, 0, 1], 3), True),
    "over_the_batch": (selects([*range(2 * TOKENS)][::-1], 2 * TOKENS), True),
    "dropped": (selects([5], SIZE), False),
    "repeated": (selects([0, 0, 2], 3), False),
    "shown": (attend_and_show, False),
}


@pytest.mark.parametrize("name", MOVES)
def test_attention_writes_rows_where_they_go(name: str, threads: None) -> None:
    move, fused = MOVES[name]
    x, module = Random(5).codes(2 * WINDOWS, SIZE, CHANNELS), Attended(move)
    program = program_of(module, x)
    assert ("SelectTokens" not in operators(program)) == fused
    assert_same_bits(program, module, x)


def test_attention_is_traced_under_the_names_of_its_parts() -> None:
    nodes = [node for node in plan_of(stage(True, 2)[1]).nodes if isinstance(node.op, fb.AttentionT)]
    for node in nodes:
        names = [part.name.decode() for part in node.parts] + [node.name.decode()]
        assert ["scores" in names[0], "softmax" in names[1], "values" in names[2]] == [True] * 3


def test_queries_of_windows_with_groups_are_not_hoisted() -> None:
    x = Random(5).codes(2 * WINDOWS, SIZE, CHANNELS)
    integer = torch.export.export(Attended(lambda y: ops.select_tokens(y, [5])).eval(), (x,)).module()
    expected = integer(x)
    hoisted = hoist_token_select(integer)
    assert torch.equal(hoisted(x), expected)
    (select,) = hoisted.graph.find_nodes(op="call_function", target=ops.select_tokens.default)
    assert "attention_values" in str(select.args[0])
