"""What ExecuTorch takes for granted in the tables of a program: it ends the process where an index or a name is wrong.

The runtime verifies a FlatBuffer's offsets, not what its numbers mean. Slots are those of ExecuTorch's program.fbs: the
field numbered i is at 4 + 2 i.
"""

from __future__ import annotations

from collections.abc import Iterator

from flatbuffers import number_types
from flatbuffers.table import Table

_TENSOR, _STRING, _TENSOR_LISTS = 5, 6, (10, 11)
"""Members of the union KernelTypes that hold more than a number."""
_SCALARS = {
    2: (number_types.Int64Flags, int),
    3: (number_types.BoolFlags, bool),
    4: (number_types.Float64Flags, float),
}
"""By member, how a number is stored and what it is in Python."""
_INDICES = {1: ((), (6,)), 2: ((), (6,)), 3: ((4, 6), ()), 4: ((4,), ()), 5: ((4,), ())}
"""By member of InstructionArguments, where it keeps indices of values: in single fields, and in vectors."""
_KERNEL_CALL = 1
_CALLED = {_KERNEL_CALL: 16, 2: 18}
"""By member, the vector of the plan that its first field is an index of: operators, delegates."""
_PLAN, _CHAIN, _DELEGATE, _UNION, _TENSOR_FIELDS = (4, 8, 10, 12, 14, 16, 18, 20), (8,), (4, 6), (4, 6), (8, 10)
"""Fields that are read without a look whether they are there."""
_MAX_DIMENSIONS = 16
_IN_SEGMENT = 1
"""Of DataLocation."""
_SEGMENTS_AT = 24
"""Where the header says where segments begin (program_file.py)."""


def check_tables(content: bytes) -> None:
    """Reads the tables of a program as far as ExecuTorch trusts them.

    Args:
        content: A whole .pte.

    Raises:
        Exception: Of any kind, where they cannot be read or contradict themselves.
    """
    program = Table(content, int.from_bytes(content[:4], "little"))
    for data in _tables(program, 18):  # named_data
        _text(data, 4)
    for plan in _tables(program, 6):  # execution_plan
        _check_plan(plan)


def constants(content: bytes) -> dict[str, tuple[bool | int | float | str, ...]]:
    """What the constant methods of a program give: those that take nothing and compute nothing.

    Args:
        content: A whole .pte whose tables were checked.
    """
    found = {}
    for plan in _tables(Table(content, int.from_bytes(content[:4], "little")), 6):
        if _length(plan, 10) or any(_length(chain, 8) for chain in _tables(plan, 14)):
            continue
        values = list(_tables(plan, 8))
        given = [_constant(values[index]) for index in _numbers(plan, 12)]
        known = tuple(value for value in given if value is not None)
        if len(known) == len(given):
            found[_text(plan, 4)] = known
    return found


def _constant(value: Table) -> bool | int | float | str | None:
    """A number or a text; None of anything else."""
    kind, content = _union(value)
    if kind == _STRING:
        return _text(content, 4)
    if kind not in _SCALARS:
        return None
    flags, python = _SCALARS[kind]
    offset = content.Offset(4)
    return python(content.Get(flags, content.Pos + offset) if offset else 0)


def backends(content: bytes, method: str) -> list[str]:
    """Names of the backends that a method calls, each once.

    Args:
        content: A whole .pte whose tables were checked.
        method: One that the program has, or not.
    """
    plans = _tables(Table(content, int.from_bytes(content[:4], "little")), 6)
    found = (_text(delegate, 4) for plan in plans if _text(plan, 4) == method for delegate in _tables(plan, 18))
    return list(dict.fromkeys(found))


def methods(content: bytes) -> list[str]:
    """Names of the methods of a program, constant ones too.

    Args:
        content: A whole .pte whose tables were checked.
    """
    return [_text(plan, 4) for plan in _tables(Table(content, int.from_bytes(content[:4], "little")), 6)]


def processed_data(content: bytes, method: str) -> list[int]:
    """Where in the file the processed bytes of a method's delegates begin.

    Args:
        content: A whole .pte whose tables were checked.
        method: One that the program has, or not.

    Raises:
        Exception: Of any kind, where a delegate's bytes are said to be nowhere.
    """
    program = Table(content, int.from_bytes(content[:4], "little"))
    inline, segments = list(_tables(program, 10)), list(_tables(program, 12))
    found = []
    for plan in _tables(program, 6):
        for delegate in _tables(plan, 18) if _text(plan, 4) == method else ():
            (reference,) = _table(delegate, 6)
            index = _number(reference, 6)
            if _number(reference, 4, number_types.Int8Flags) == _IN_SEGMENT:
                first = int.from_bytes(content[_SEGMENTS_AT : _SEGMENTS_AT + 8], "little")
                found.append(first + _number(segments[index], 4, number_types.Uint64Flags))
            else:
                found.append(inline[index].Vector(inline[index].Offset(4)))
    return found


def kernel_calls(content: bytes, method: str) -> list[str]:
    """Names of the operators that a method runs outside of all backends, one for each call.

    Args:
        content: A whole .pte whose tables were checked.
        method: One that the program has, or not.
    """
    found = []
    for plan in _tables(Table(content, int.from_bytes(content[:4], "little")), 6):
        if _text(plan, 4) != method:
            continue
        names = [_text(operator, 4) for operator in _tables(plan, 16)]
        for chain in _tables(plan, 14):
            instructions = map(_union, _tables(chain, 8))
            found += [names[_number(call, 4)] for kind, call in instructions if kind == _KERNEL_CALL]
    return found


def _check_plan(plan: Table) -> None:
    _require(plan, _PLAN)
    _text(plan, 4)
    values = list(_tables(plan, 8))
    for operator in _tables(plan, 16):
        _text(operator, 4)
        _text(operator, 6)
    for delegate in _tables(plan, 18):
        _require(delegate, _DELEGATE)
        _text(delegate, 4)
        for spec in _tables(delegate, 8):
            _text(spec, 4)
    for value in values:
        _check_value(value, len(values))
    for slot in (10, 12):  # inputs, outputs
        _check_range(_numbers(plan, slot), len(values))
    for chain in _tables(plan, 14):
        _require(chain, _CHAIN)
        for instruction in _tables(chain, 8):
            _check_instruction(plan, instruction, len(values))


def _check_value(value: Table, values: int) -> None:
    kind, content = _union(value)
    if kind == _STRING:
        _text(content, 4)
    elif kind in _TENSOR_LISTS:
        _check_range((i for i in _numbers(content, 4) if i >= 0), values)  # -1: none
    elif kind == _TENSOR:
        _require(content, _TENSOR_FIELDS)
        sizes, order = _numbers(content, 8), _numbers(content, 10, number_types.Uint8Flags)
        if len(sizes) > _MAX_DIMENSIONS or sorted(order) != list(range(len(sizes))) or min(sizes, default=0) < 0:
            raise ValueError("a tensor has no shape")
        for info in _table(content, 20):  # extra_tensor_info
            _text(info, 6)


def _check_instruction(plan: Table, instruction: Table, values: int) -> None:
    kind, content = _union(instruction)
    single, vectors = _INDICES[kind]
    _require(content, vectors)
    _check_range((_number(content, slot) for slot in single), values)
    for slot in vectors:
        _check_range(_numbers(content, slot), values)
    if kind in _CALLED:
        _check_range([_number(content, 4)], _length(plan, _CALLED[kind]))


def _require(table: Table, slots: tuple[int, ...]) -> None:
    if not all(map(table.Offset, slots)):
        raise ValueError("a field is missing")


def _check_range(indices: Iterator[int] | list[int], length: int) -> None:
    if not all(0 <= index < length for index in indices):
        raise ValueError(f"an index is outside of {length} values")


def _text(table: Table, slot: int) -> str:
    """Decodes a name: ExecuTorch logs it through Python, which ends the process over one that is no UTF-8."""
    offset = table.Offset(slot)
    return str(table.String(table.Pos + offset).decode("utf-8")) if offset else ""


def _number(table: Table, slot: int, flags: type = number_types.Int32Flags) -> int:
    offset = table.Offset(slot)
    return table.Get(flags, table.Pos + offset) if offset else 0


def _length(table: Table, slot: int) -> int:
    offset = table.Offset(slot)
    return table.VectorLen(offset) if offset else 0


def _numbers(table: Table, slot: int, flags: type = number_types.Int32Flags) -> list[int]:
    offset, size = table.Offset(slot), flags.bytewidth  # type: ignore[attr-defined]
    start = table.Vector(offset) if offset else 0
    return [table.Get(flags, start + size * index) for index in range(_length(table, slot))]


def _tables(table: Table, slot: int) -> Iterator[Table]:
    offset = table.Offset(slot)
    start = table.Vector(offset) if offset else 0
    for index in range(_length(table, slot)):
        yield Table(table.Bytes, table.Indirect(start + 4 * index))


def _table(table: Table, slot: int) -> Iterator[Table]:
    """A table inside of another; none where the field is not there."""
    if offset := table.Offset(slot):
        yield Table(table.Bytes, table.Indirect(table.Pos + offset))


def _union(table: Table) -> tuple[int, Table]:
    """Number of the member that a union at slots 4 and 6 holds, and its table."""
    _require(table, _UNION)
    return table.Get(number_types.Uint8Flags, table.Pos + table.Offset(4)), next(_table(table, 6))
