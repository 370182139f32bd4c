"""Whatever strides and types the images have: one program, and it runs on any strides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import images, plain_model
from packqvit_delegate import Program, export, runtime

X = images(4)


def exported(example: Tensor, calibration: Tensor) -> Program:
    return export(plain_model(), (example,), calibration, bits=8)


@pytest.fixture(scope="module")
def program() -> Program:
    return exported(X[:1], X)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def test_channels_last_images_give_the_same_program(program: Program) -> None:
    assert exported(channels_last(X)[:1], channels_last(X)).buffer == program.buffer


def test_double_precision_images_give_the_same_program(program: Program) -> None:
    example = X[:1].double().expand(1, -1, -1, -1).flip(-1).flip(-1)
    assert exported(example, X.double().transpose(2, 3).contiguous().transpose(2, 3)).buffer == program.buffer


@pytest.mark.parametrize(
    "layout",
    [
        channels_last,
        lambda x: x.flip(-1).contiguous().flip(-1),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.as_strided(x.shape, (7, *x.stride()[1:])),
        lambda x: x.clone().requires_grad_(),
    ],
    ids=["channels_last", "flipped", "transposed", "every_second", "stride_of_one_image", "gradient"],
)
def test_any_strides_at_run_time(program: Program, layout: Callable[[Tensor], Tensor]) -> None:
    (actual,) = runtime.load(program.buffer).run(layout(X[:1]))
    assert torch.equal(actual, program.integer_module(X[:1]))


def test_one_constant_image(program: Program) -> None:
    (actual,) = runtime.load(program.buffer).run(torch.tensor(0.5).expand(1, 3, 32, 32))
    assert torch.equal(actual, program.integer_module(torch.full((1, 3, 32, 32), 0.5)))
