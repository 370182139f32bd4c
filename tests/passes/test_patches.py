"""Patches in other spellings become the convolution of a patch embedding, or whole runs of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphs import Lambda, operators, run_pass, tensor
from models import export
from packqvit_delegate.passes import canonicalize
from packqvit_delegate.passes.embed_linears import embed_linears
from packqvit_delegate.passes.fold_affine_input import fold_affine_input
from packqvit_delegate.passes.graph import aten, constant, find, shape_of
from packqvit_delegate.passes.normalize_patches import normalize_patches
from packqvit_delegate.passes.order_patch_features import order_patch_features

D = 6


def model(function: Callable[[Any, Tensor], Tensor], features: int = 24) -> Lambda:
    generator = torch.Generator().manual_seed(0)
    made = Lambda(
        function,
        linear=nn.Linear(features, D),
        norm=nn.LayerNorm(features),
        position=nn.Parameter(torch.randn(1, 6, D, generator=generator)),
        token=nn.Parameter(torch.randn(1, 1, D, generator=generator).repeat(2, 1, 1)),
        anyhow=torch.randperm(144, generator=generator),
        cube=torch.randn(D, 3, 2, 2, 4, generator=generator),
        tall=torch.randn(D, 3, 4, 2, 4, generator=generator),
        bar=torch.randn(D, 3, 4, generator=generator),
        bias=torch.randn(D, generator=generator),
    )
    nn.init.normal_(made.norm.weight)
    nn.init.normal_(made.norm.bias)
    return made


def cut(x: Tensor, order: tuple[int, ...], rows: int = 2, columns: int = 4) -> Tensor:
    """[2, 3, 4, 12] -> [2, 6, 24], patches of 2 x 4, with their features in an order of axes (1, 3, 5)."""
    x = x.reshape(2, 3, 4 // rows, rows, 12 // columns, columns)
    return x.permute(0, 2, 4, *order).reshape(2, -1, 3 * rows * columns)


IMAGES: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...], tuple[int, int]]] = {
    "channels first": (lambda m, x: m.linear(cut(x, (1, 3, 5))), (2, 3, 4, 12), (2, 4)),
    "channels last": (lambda m, x: m.linear(cut(x, (3, 5, 1))), (2, 3, 4, 12), (2, 4)),
    "columns first": (lambda m, x: m.linear(cut(x, (5, 1, 3))), (2, 3, 4, 12), (2, 4)),
    "column by column": (
        lambda m, x: m.linear(cut(x, (1, 3, 5)).reshape(2, 2, 3, 24).transpose(1, 2).reshape(2, 6, 24)),
        (2, 3, 4, 12),
        (2, 4),
    ),
    "some": (lambda m, x: m.linear(cut(x, (1, 3, 5))[:, 1:5]), (2, 3, 4, 12), (2, 4)),
    "whole rows": (lambda m, x: m.linear(x.transpose(1, 2).reshape(2, 4, 24)), (2, 3, 4, 8), (3, 8)),
    "of an image of channels last": (
        lambda m, x: m.linear(x.reshape(2, 2, 2, 3, 4, 3).transpose(2, 3).reshape(2, 6, 24)),
        (2, 4, 12, 3),
        (2, 12),
    ),
    "left over": (lambda m, x: m.linear(cut(x[..., :4, :12], (1, 3, 5))), (2, 3, 5, 14), (2, 4)),
    "scaled": (lambda m, x: m.linear(cut(x * 2 - 1, (1, 3, 5))), (2, 3, 4, 12), (2, 4)),
    "with positions": (lambda m, x: m.linear(x) + m.position, (2, 6, 24), (1, 24)),
    "with a token": (lambda m, x: torch.cat([m.token, m.linear(x)], 1), (2, 6, 24), (1, 24)),
    "of features first": (lambda m, x: m.linear(x.transpose(1, 2)) + m.position, (2, 24, 6), (24, 1)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_linear_of_patches_is_a_convolution(name: str) -> None:
    function, shape, kernel = IMAGES[name]
    graph_module = run_pass(embed_linears, model(function), tensor(*shape))
    (convolution,) = find(graph_module, aten.conv2d.default)
    assert shape_of(convolution.args[1])[2:] == kernel
    assert "linear.default" not in operators(graph_module)


OTHERS: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "rows of an input that no embedding follows": (lambda m, x: m.linear(x), (2, 6, 24)),
    "one number for all tokens": (lambda m, x: m.linear(x) + m.bias, (2, 6, 24)),
    "pixels": (lambda m, x: m.linear(x), (2, 4, 3, 24)),
    "overlapping patches": (
        lambda m, x: m.linear(torch.cat([cut(x, (1, 3, 5)), cut(x.roll(1, 3), (1, 3, 5))], 1)),
        (2, 3, 4, 12),
    ),
    "a patch twice": (lambda m, x: m.linear(cut(x, (1, 3, 5))[:, [0, 1, 1]]), (2, 3, 4, 12)),
    "pixels anyhow": (lambda m, x: m.linear(x.flatten(1).index_select(1, m.anyhow).reshape(2, 6, 24)), (2, 3, 4, 12)),
    "padded patches": (lambda m, x: m.linear(cut(functional.pad(x, (0, 1)), (1, 3, 5))), (2, 3, 4, 11)),
    "not of an input": (lambda m, x: m.linear(cut(x.sin(), (1, 3, 5))), (2, 3, 4, 12)),
    "images mixed": (lambda m, x: m.linear(cut(x, (1, 3, 5)).flip(0)), (2, 3, 4, 12)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_linears_stay(name: str) -> None:
    function, shape = OTHERS[name]
    graph_module = run_pass(embed_linears, model(function), tensor(*shape))
    assert operators(graph_module)["linear.default"] == 1 and not find(graph_module, aten.conv2d.default)


def test_the_canonical_form_of_all_spellings_is_one() -> None:
    """Down to the weights: those of the convolution whose patches they are."""
    plain = nn.Conv2d(3, D, (2, 4), (2, 4))
    tokens = plain(x := tensor(2, 3, 4, 12)).flatten(2).transpose(1, 2)
    for order in ((1, 3, 5), (3, 5, 1), (5, 3, 1)):
        made = model(lambda m, x, order=order: m.linear(cut(x, order)) + m.position)
        kernel = plain.weight.permute(0, *((1, 2, 3)[(1, 3, 5).index(axis)] for axis in order))
        with torch.no_grad():
            made.linear.weight.copy_(kernel.reshape(D, 24))
            made.linear.bias.copy_(plain.bias)
        graph_module = canonicalize(export(made, x))
        (convolution,) = find(graph_module, aten.conv2d.default)
        assert convolution.args[0].op == "placeholder"
        assert torch.equal(constant(graph_module, convolution.args[1]), plain.weight.detach())
        torch.testing.assert_close(graph_module(x), tokens + made.position)


UNFOLDED: dict[str, tuple[Callable[[Any, Tensor], Tensor], tuple[int, ...]]] = {
    "unfold": (lambda m, x: functional.unfold(x, (2, 4), stride=(2, 4)), (2, 3, 5, 14)),
    "tensor.unfold": (lambda m, x: x.unfold(2, 2, 2).unfold(-2, 4, 4), (2, 3, 5, 14)),
    "conv3d": (lambda m, x: functional.conv3d(x, m.cube, m.bias, (2, 2, 4)), (2, 3, 4, 6, 8)),
    "conv3d of one step": (lambda m, x: functional.conv3d(x, m.tall, None, (4, 2, 4)), (2, 3, 4, 5, 9)),
    "conv1d": (lambda m, x: functional.conv1d(x, m.bar, m.bias, 4), (2, 3, 18)),
}


@pytest.mark.parametrize("name", UNFOLDED)
def test_other_operators_that_cut_patches(name: str) -> None:
    function, shape = UNFOLDED[name]
    graph_module = run_pass(normalize_patches, model(function), tensor(*shape))
    moves = {"reshape.default", "permute.default", "slice.Tensor"}
    assert set(operators(graph_module)) - moves <= {"conv2d.default"}


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda m, x: functional.unfold(x, 2), (2, 3, 4, 4)),
        (lambda m, x: functional.unfold(x, 2, padding=1, stride=2), (2, 3, 4, 4)),
        (lambda m, x: functional.unfold(x, 2, dilation=2, stride=2), (2, 3, 4, 4)),
        (lambda m, x: x.unfold(2, 3, 1), (2, 3, 4)),
        (lambda m, x: functional.conv1d(x, m.bar, None, 2), (2, 3, 18)),
        (lambda m, x: functional.conv1d(x, m.bar[:, :1], None, 4, groups=3), (2, 3, 16)),
        (lambda m, x: functional.conv3d(x, m.cube, None, (2, 2, 4), padding=1), (2, 3, 4, 4, 6)),
        (lambda m, x: functional.conv3d(x, m.cube, None, (2, 2, 4)), (2, 3, 5, 4, 4)),
        (lambda m, x: functional.conv3d(x, m.cube, None, (2, 2, 4)), (2, 3, 4, 5, 4)),
    ],
)
def test_what_overlaps_or_leaves_frames_over_stays(function: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    made = model(function)
    before = operators(export(made, tensor(*shape)))
    assert operators(run_pass(normalize_patches, made, tensor(*shape))) == before


def test_a_norm_of_patches_reads_runs_of_pixels() -> None:
    for order in ((3, 5, 1), (5, 1, 3), (1, 5, 3)):
        made = model(lambda m, x, order=order: m.linear(m.norm(cut(x, order)))[:, 1:])
        graph_module = run_pass(order_patch_features, made, tensor(2, 3, 4, 12))
        (select,) = find(graph_module, aten.index_select.default)
        assert shape_of(select)[-1] == 4  # a row of a patch
        assert "permute.default" not in operators(graph_module)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.linear(m.norm(cut(x, (1, 3, 5)))),  # as they lie
        lambda m, x: m.norm(cut(x, (3, 5, 1))),  # others than linears read it
        lambda m, x: m.linear(m.norm(cut(x.sin(), (3, 5, 1)))),
    ],
)
def test_other_norms_stay(function: Callable[[Any, Tensor], Tensor]) -> None:
    graph_module = run_pass(order_patch_features, model(function), tensor(2, 3, 4, 12))
    assert not find(graph_module, aten.index_select.default)


def test_normalisation_inside_is_folded_into_the_patches() -> None:
    made = Lambda(
        lambda m, x: m.patch((x - m.mean) / m.std * 2 - 1),
        patch=nn.Conv2d(3, D, 4, 4),
        mean=tensor(3, 1, 1),
        std=tensor(1, 3, 1, 1, seed=1).abs() + 0.5,
    )
    graph_module = run_pass(fold_affine_input, made, tensor(2, 3, 9, 8))
    assert operators(graph_module) == {"conv2d.default": 1}


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.padded(x - 1),  # zeros around the image would be pixels of mean 1
        lambda m, x: m.patch(x - m.picture),  # another number for each pixel
        lambda m, x: m.patch(x.sin()),
    ],
)
def test_what_cannot_be_folded_into_patches_stays(function: Callable[[Any, Tensor], Tensor]) -> None:
    made = Lambda(
        function, patch=nn.Conv2d(3, D, 4, 4), padded=nn.Conv2d(3, D, 4, 4, padding=2), picture=tensor(1, 3, 8, 8)
    )
    before = operators(export(made, tensor(2, 3, 8, 8)))
    assert operators(run_pass(fold_affine_input, made, tensor(2, 3, 8, 8))) == before
