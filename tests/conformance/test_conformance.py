"""Every operator: the native kernel gives the bits of the integer reference."""

from __future__ import annotations

import pytest
import torch

from conformance.cases import FAMILIES, Family
from conformance.suite import lowered_family
from packqvit_delegate import Program, runtime


def first_difference(actual: torch.Tensor, expected: torch.Tensor) -> str:
    """Where two tensors differ first, for the failure message; "" when they are equal."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{actual.dtype} {tuple(actual.shape)} instead of {expected.dtype} {tuple(expected.shape)}"
    different = (actual != expected).nonzero()
    if not len(different):
        return ""
    at = tuple(different[0].tolist())
    return f"{len(different)} of {expected.numel()} differ, first {at}: {actual[at]} instead of {expected[at]}"


def assert_reference_bits(module: Family, program: Program) -> None:
    expected = module(*module.inputs())
    actual = runtime.load(program.buffer).run(*module.inputs())
    pairs = enumerate(zip(actual, expected, strict=True))
    differences = [f"case {i}: {found}" for i, pair in pairs if (found := first_difference(*pair))]
    assert not differences, "\n".join(differences)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Family, Program]:
    return lowered_family(request.param)


def test_program_is_one_delegate_call(family: tuple[Family, Program]) -> None:
    assert family[1].report.is_whole, family[1].report.render()


def test_native_kernel_gives_the_reference_bits(family: tuple[Family, Program]) -> None:
    assert_reference_bits(*family)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "name", ["linear", "linear_add", "softmax", "attention_values", "layer_norm", "layer_norm_add"]
)
def test_other_random_values_give_the_reference_bits(name: str, seed: int) -> None:
    assert_reference_bits(*lowered_family(name, seed))
