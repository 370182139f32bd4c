"""Places the values of a plan in its arena."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import packqvit_delegate.serialization.plan_generated as fb

from ..planner import Lifetime, plan_arena
from .constants import DATA_TYPES

_PART_BYTES = 256 * 1024
"""kPartBytes of backend_cpp/src/row_chain.cpp."""

_ITEM_SIZE = {data_type: torch_type.itemsize for torch_type, data_type in DATA_TYPES.items()}


class Placement:
    """The values of a plan, its nodes, and which rows of what the threads of the runtime may be at."""

    def __init__(
        self,
        values: Sequence[fb.ValueT],
        nodes: Sequence[fb.NodeT],
        first_use: Mapping[int, int],
        last_use: Mapping[int, int],
        constants: Sequence[fb.ConstantT],
    ) -> None:
        """Finds the chains of row-wise nodes.

        Args:
            values: Of the plan, in their final shapes.
            nodes: Of the plan, in order.
            first_use: For each value of the arena the index of the node that writes it.
            last_use: The last node that uses it.
            constants: Of the plan.
        """
        self._values, self._nodes, self._constants = values, nodes, constants
        self._first, self._last = first_use, last_use
        self._first_of, self._last_of = self._row_chains()
        # Threads that are further on in a chain must not write over rows that others are going to read.
        self._held = {node.op.x: self._last_of[at] for at, node in enumerate(nodes) if _reads_other_rows(node.op)}

    def place(self) -> int:
        """Sets the locations of all values in the arena.

        Returns:
            Its size in bytes.
        """
        buffers = self._buffers()
        offsets, size = plan_arena([self._lifetime(buffer) for buffer in buffers])
        for buffer, offset in zip(buffers, offsets, strict=True):
            for i in buffer:
                self._values[i].location = offset
        return size

    def _buffers(self) -> list[list[int]]:
        """The arena's values, those together that take one another's place (`_replaceable`)."""
        buffer_of = {i: [i] for i, value in enumerate(self._values) if value.storage == fb.Storage.Arena}
        for at, node in enumerate(self._nodes):
            operand, output = self._replaceable(node.op), node.op.output
            if operand not in buffer_of or output not in buffer_of or self._last[operand] != at:
                continue
            if self._held.get(operand, -1) >= self._first_of[at]:  # other threads may still read any of its rows
                continue
            buffer_of[operand].append(output)
            buffer_of[output] = buffer_of[operand]
        return [buffer for i, buffer in buffer_of.items() if buffer[0] == i]

    def _replaceable(self, op: Any) -> int:
        """The operand that the output may be written over (backend_cpp/src/plan/check.h), -1 for none."""
        if getattr(op, "residual", -1) != -1:
            return -1 if op.residual == op.x else int(op.residual)
        is_row_wise = isinstance(op, fb.LayerNormT) and op.rows == -1
        return int(op.x) if is_row_wise and self._values[op.x].type == self._values[op.output].type else -1

    def _lifetime(self, buffer: list[int]) -> Lifetime:
        row_size = self._values[buffer[0]].shape[-1] * _ITEM_SIZE[self._values[buffer[0]].type]
        first, last = self._first[buffer[0]], max(self._last[buffer[-1]], self._held.get(buffer[-1], 0))
        return Lifetime(
            self._bytes(buffer[0]),
            first,
            last,
            row_size,
            self._first_of[first],
            self._last_of[last],
            is_local=self._is_cut(self._first_of[first]) and last <= self._end_of_chain(first),
        )

    def _bytes(self, value: int) -> int:
        return math.prod(self._values[value].shape) * _ITEM_SIZE[self._values[value].type]

    def _row_chains(self) -> tuple[list[int], list[int]]:
        """For each node the first and the last node of the chain that the runtime may run it in (row_chain.h)."""
        rows = [self._chain_rows(node) for node in self._nodes]
        first_of, last_of = list(range(len(rows))), list(range(len(rows)))
        for i in range(1, len(rows)):
            if self._continues_chain(rows, i):
                first_of[i] = first_of[i - 1]
        for i in range(len(rows) - 2, -1, -1):
            if self._continues_chain(rows, i + 1):
                last_of[i] = last_of[i + 1]
        return first_of, last_of

    def _continues_chain(self, rows: list[int | None], i: int) -> bool:
        """Whether node `i` may run in one chain with the node before it."""
        return rows[i] is not None and rows[i] == rows[i - 1] and not _reads_other_rows(self._nodes[i].op)

    def _chain_rows(self, node: fb.NodeT) -> int | None:
        """Rows of a node that works on each row by itself; None for other nodes."""
        if not isinstance(node.op, (fb.LinearT, fb.LayerNormT, fb.HeadNormT, fb.RequantizeT, fb.RotateT, fb.MultiplyT)):
            return None
        return math.prod(self._values[node.op.output].shape[:-1])

    def _is_cut(self, first: int) -> bool:
        """Whether the runtime cuts the chain that begins here into parts on one thread too."""
        if self._chain_rows(self._nodes[first]) is None:
            return False
        nodes = [node.op for node in self._nodes[first : self._last_of[first] + 1]]
        handed = self._bytes(nodes[0].x) + sum(self._bytes(op.output) for op in nodes)
        weights = (self._constants[op.weight] for op in nodes if isinstance(op, fb.LinearT))
        largest = max(
            (math.prod(weight.shape) >> (weight.encoding == fb.Encoding.Nibbles) for weight in weights), default=0
        )
        return handed >= 2 * max(_PART_BYTES, largest)

    def _end_of_chain(self, node: int) -> int:
        """The last node of a node's chain: an attention reads each image's rows alone, and ends the chain in front."""
        last = self._last_of[node]
        if last + 1 == len(self._nodes) or not isinstance(self._nodes[last + 1].op, fb.AttentionT):
            return last
        op = self._nodes[last + 1].op
        if op.query != -1 or list(self._values[op.q].shape[:-1]) != list(self._values[op.k].shape[:-1]):
            return last
        is_of_chain = math.prod(self._values[op.k].shape[:-1]) == self._chain_rows(self._nodes[last])
        return last + 1 if is_of_chain else last


def _reads_other_rows(operator: Any) -> bool:
    """Whether a row-wise operator reads rows of its first operand that are not those that it writes."""
    return isinstance(operator, (fb.LayerNormT, fb.RequantizeT)) and operator.rows != -1
