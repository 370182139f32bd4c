"""Every operator against float64 arithmetic on the same inputs, the extremes of every range among them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from conformance.cases import FAMILIES, Case, Input, Random
from ops.oracles import ORACLES, QUICK_GELU

ops = torch.ops.packqvit


def _simulated_quantisers(r: Random) -> Iterator[tuple[str, Case]]:
    """Cases of the operators that no native kernel has."""
    x, codes = torch.randn(2, 5, 7, generator=r.generator), r.codes(2, 5, 7)
    scale, offset = torch.rand(7, generator=r.generator) + 0.1, torch.randn(7, generator=r.generator)
    yield "quantize_offset", (x * 40, 1 / scale, offset, -1, -128, 127)
    yield "dequantize_offset", (codes, scale, offset, -1)
    for log2 in (True, False):
        yield "quantize_probabilities", (torch.softmax(9 * x, -1), log2)
        yield "dequantize_probabilities", (r.integers(0, 15 if log2 else 255, (2, 5, 7), torch.uint8), log2)
    yield "activation", (x,)
    angles = torch.randn(5, 1, 8, generator=r.generator)
    rows = torch.randn(2, 5, 3, 8, generator=r.generator)
    yield "rotary", (rows, angles.cos(), angles.sin(), [4, 5, 6, 7, 0, 1, 2, 3])
    queries, numbers = torch.randn(2, 3, 6, 8, generator=r.generator), torch.randn(3, 8, 8, generator=r.generator)
    for relative in (numbers, numbers[:1]):
        yield "relative_bias", (queries, relative, 2, 3)
    yield "function", (4 * x, QUICK_GELU)


def _cases(name: str) -> list[Case]:
    if name in FAMILIES:
        family = FAMILIES[name][1](Random(3))
        return [tuple(a.tensor if isinstance(a, Input) else a for a in case) for case in family]
    return [case for owner, case in _simulated_quantisers(Random(3)) if owner == name]


def _operators() -> set[str]:
    prefix = "packqvit::"
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}


def test_every_operator_has_an_oracle_and_cases() -> None:
    assert _operators() == set(ORACLES), "describe new operators in tests/ops/oracles.py"
    assert [name for name in sorted(ORACLES) if not _cases(name)] == []


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_codes_are_within_the_stated_error(name: str) -> None:
    for number, case in enumerate(_cases(name)):
        codes, real = getattr(ops, name)(*case).double(), ORACLES[name](*case)
        same = codes == real.value  # infinite scores
        beyond = torch.where(same, -1.0, (codes - real.value).abs() - real.error - 1e-9)
        worst = int(beyond.argmax())
        assert float(beyond.max()) <= 0, (
            f"case {number}: {float(codes.flatten()[worst])} instead of {float(real.value.flatten()[worst])}, "
            f"{float(beyond.max()):.3g} beyond the error"
        )
