"""Running a graph on other numbers of images than it was exported for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from graphs import Lambda, tensor
from models import CASES, export, images
from packqvit_delegate.batching import ImageAxes
from packqvit_delegate.errors import CalibrationError
from packqvit_delegate.passes import canonicalize, fold_constants

aten = torch.ops.aten


class _Run(Interpreter):
    """Runs a graph with the arguments that its axes give for other numbers of images."""

    def __init__(self, graph_module: GraphModule, axes: ImageAxes, count: int) -> None:
        super().__init__(graph_module)
        self.axes, self.count = axes, count

    def run_node(self, n: Node) -> Any:
        if n.op == "call_module":  # torch.export's check of the input's shape
            return None
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        return n.target(*self.axes.arguments(n, args, self.count), **kwargs)  # type: ignore[operator]


def graph_of(model: nn.Module, x: Tensor) -> GraphModule:
    return fold_constants(export(model, x))


def windows(x: Tensor) -> Tensor:
    """[B, 4, 4, C] -> [B * 4, 4, C]."""
    return x.reshape(-1, 2, 2, 2, 2, x.shape[-1]).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, x.shape[-1])


def attention(x: Tensor) -> Tensor:
    return (x @ x.transpose(1, 2)).softmax(-1) @ x


C = 6
TOGETHER: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "windows": lambda m, x: attention(windows(x)).reshape(len(x), 16, C).mean(1),
    "shifted": lambda m, x: windows(x.roll((-1, -1), (1, 2))),
    "tiles_of_the_map": lambda m, x: m.conv(x.reshape(-1, 2, 2, 4, C).permute(0, 1, 4, 2, 3).flatten(0, 1)),
    "bias_for_each_window": lambda m, x: (
        (windows(x) @ windows(x).transpose(1, 2)).reshape(-1, 4, 4, 4) + m.bias
    ).flatten(0, 1),
    "bias_for_each_image_and_window": lambda m, x: windows(x) + m.bias.repeat(len(x), 1, 1)[:, :, :1],
    "tokens_first": lambda m, x: m.fc(x.flatten(1, 2).transpose(0, 1)).transpose(0, 1),
    "rows": lambda m, x: m.fc(x.reshape(-1, C)).reshape(x.shape[0], 16, 3).amax(1),
    "windows_in_front": lambda m, x: (
        m.fc(x.reshape(-1, 16, C).transpose(0, 1).reshape(-1, C)).reshape(16, -1, 3).sum(0)
    ),
    "views": lambda m, x: torch.cat([x, x.flip(2)]).reshape(2, -1, 4, 4, C).mean(0),
    "views_stacked": lambda m, x: m.fc(torch.stack([x, x.flip(2)], 1).flatten(0, 1)).unflatten(0, (-1, 2)).mean(1),
    "token": lambda m, x: torch.cat([m.token.expand(len(x), -1, -1), x.flatten(1, 2)], 1)[:, 0],
    "token_for_each_window": lambda m, x: torch.cat([m.token.expand(4 * len(x), -1, -1), windows(x)], 1),
    "probe": lambda m, x: torch.bmm(m.token.repeat(len(x), 1, 1), x.flatten(1, 2).transpose(1, 2)),
    "repeated": lambda m, x: m.fc(x.repeat(3, 1, 1, 1)).unflatten(0, (3, -1)).sum(0),
    "split": lambda m, x: torch.cat(x.chunk(2, 1)[::-1], 1) + x.unbind(1)[0][:, None],
    "merged_patches": lambda m, x: torch.cat([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1),
    "sdpa": lambda m, x: nn.functional.scaled_dot_product_attention(windows(x), windows(x), windows(x), m.bias[0]),
    "einsum": lambda m, x: torch.einsum("bhwc,bhwd->bcd", x, x) @ m.weight,
    "group_norm": lambda m, x: m.group_norm(x.permute(0, 3, 1, 2)).flatten(2),
    "batch_norm": lambda m, x: m.batch_norm(x.permute(0, 3, 1, 2)).flatten(2),
    "padded": lambda m, x: nn.functional.pad(x, (0, 0, 1, 1, 0, 1)).sum((1, 2)),
    "gated": lambda m, x: torch.lerp(x, m.norm(x), 0.3) * x.mean((1, 2), keepdim=True),
}
MIXED: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "mean_of_images": lambda m, x: x - x.mean(0, keepdim=True),
    "sorted_images": lambda m, x: x.sort(0)[0],
    "attention_between_images": lambda m, x: attention(x.flatten(1)[None])[0],
    "mean_of_all": lambda m, x: x + x.mean(),
    "rolled_images": lambda m, x: x.roll(1, 0),
    "rolled_in_all": lambda m, x: x.roll(1),
    "product_of_images": lambda m, x: x.flatten(1) @ x.flatten(1).T,
    "norm_of_images": lambda m, x: nn.functional.layer_norm(x, x.shape),
    "unknown": lambda m, x: torch.linalg.qr(x.flatten(1)[None])[0][0],
}


def model(function: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    return Lambda(
        function,
        fc=nn.Linear(C, 3),
        norm=nn.LayerNorm(C),
        conv=nn.Conv2d(C, 3, 2),
        group_norm=nn.GroupNorm(2, C),
        batch_norm=nn.BatchNorm2d(C),
        bias=tensor(4, 4, 4),
        token=nn.Parameter(tensor(1, 1, C)),
        weight=tensor(C, C),
    ).eval()


@pytest.fixture(scope="module", params=[1, 2])
def outputs(request: pytest.FixtureRequest) -> dict[str, tuple[Tensor, Tensor]]:
    """What all of TOGETHER give for six images: the graph that was exported for one or two, and the functions."""
    x, module = tensor(6, 4, 4, C), model(lambda m, x: [function(m, x) for function in TOGETHER.values()])
    graph_module = graph_of(module, x[: request.param])
    axes = ImageAxes(graph_module)
    assert axes.exported == request.param and axes.obstacle is None
    with torch.no_grad():
        found = _Run(graph_module, axes, len(x)).run(x)
        return dict(zip(TOGETHER, zip(found, module(x), strict=True), strict=True))


@pytest.mark.parametrize("name", TOGETHER)
def test_images_together_are_images_alone(outputs: dict[str, tuple[Tensor, Tensor]], name: str) -> None:
    torch.testing.assert_close(*outputs[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name, exported", [*((name, 2) for name in MIXED), ("mean_of_images", 1)])
def test_mixed_images_run_as_exported(name: str, exported: int) -> None:
    x = tensor(6, 4, 4, C)
    axes = ImageAxes(graph_of(model(MIXED[name]), x[:exported]))
    assert axes.obstacle is not None
    assert [len(part) for (part,) in axes.cut([(x,)])] == [exported] * (6 // exported)
    assert axes.at_once(16) == exported


def test_images_that_cannot_be_cut() -> None:
    axes = ImageAxes(graph_of(model(MIXED["mean_of_images"]), tensor(2, 4, 4, C)))
    with pytest.raises(CalibrationError, match="exported for 2 images.*mixes.*; 5 images came"):
        axes.cut([(tensor(5, 4, 4, C),)])


def test_constants_that_differ_within_the_batch_are_an_obstacle() -> None:
    axes = ImageAxes(graph_of(Lambda(lambda m, x: x + m.bias, bias=tensor(2, 3, 1)), tensor(2, 3, 4)))
    assert axes.obstacle is not None and "differ from one image to the next" in axes.obstacle


@pytest.mark.parametrize("windows, obstacle", [(1, False), (4, False), (8, True)])
def test_groups_of_a_softmax_are_those_of_every_image(windows: int, obstacle: bool) -> None:
    """Two images of four windows: masks with the period of one image are alike for all."""
    softmax = torch.ops.packqvit.softmax
    groups = torch.arange(windows * 3).reshape(windows, 3).remainder(2).to(torch.uint8)
    module = Lambda(
        lambda m, x: softmax(x.reshape(-1, 2, 3, 3), None, 20000, 1, True, m.groups).reshape(-1, 4, 18), groups=groups
    )
    x = torch.arange(6 * 4 * 18, dtype=torch.int32).remainder(97).reshape(6, 4, 18)
    graph_module = export(module, x[:2])
    axes = ImageAxes(graph_module)
    assert (axes.obstacle is not None) == obstacle
    if not obstacle:
        assert torch.equal(_Run(graph_module, axes, 6).run(x), module(x))


def test_totals_belong_to_one_image() -> None:
    axes = ImageAxes(graph_of(model(lambda m, x: m.fc(windows(x))), tensor(1, 4, 4, C)))
    (linear,) = axes._module.graph.find_nodes(op="call_function", target=aten.linear.default)
    values = tensor(3 * 4, 4)  # of three images
    total = axes.total(linear, values)
    torch.testing.assert_close(total, values.reshape(3, 4, 4).sum(0))
    assert torch.equal(axes.spread(linear, total, 3), total.repeat(3, 1))


@pytest.mark.parametrize("name", ["torchvision_vit", "plain_bmm"])
def test_canonical_models_run_on_any_number(name: str) -> None:
    graph_module = canonicalize(export(CASES[name].build(), images(1)))
    assert ImageAxes(graph_module).obstacle is None
