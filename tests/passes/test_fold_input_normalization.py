from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import packqvit_delegate
from graphs import run_pass
from models import MICRO, images, plain_model, randomize
from packqvit_delegate import PackQViTError, runtime
from packqvit_delegate.capture import capture
from packqvit_delegate.passes import canonicalize, fold_input_normalization
from packqvit_delegate.passes.fold_input_normalization import PIXELS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALIZATION = (MEAN, STD)


def normalized(batch: int, seed: int = 0) -> Tensor:
    pixels = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).mul(255).round() / 255
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in NORMALIZATION)
    return (pixels - mean) / std


def pixels_of(graph_module: torch.fx.GraphModule) -> list[str]:
    return [node.name for node in graph_module.graph.nodes if PIXELS in node.meta]


@pytest.mark.parametrize("std", [STD, (0.5, 0.5, 0.5)], ids=["unequal", "equal"])
def test_the_function_stays(std: tuple[float, ...]) -> None:
    def fold(graph_module: torch.fx.GraphModule) -> torch.fx.GraphModule:
        return fold_input_normalization(canonicalize(graph_module), std)

    graph_module = run_pass(fold, plain_model(), images(1), atol=1e-4)
    (node,) = (node for node in graph_module.graph.nodes if PIXELS in node.meta)
    assert node.op == ("placeholder" if len(set(std)) == 1 else "call_function")


class Stem(nn.Module):
    """A convolution whose kernel is its stride, before the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.vit = nn.Conv2d(3, 6, 2, 2), plain_model()
        self.vit.patch = nn.Conv2d(6, MICRO["dim"], 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(nn.functional.relu(self.stem(x)))


class Shared(nn.Module):
    """The image is read by the patches and by something else."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.colour = plain_model(), nn.Linear(3, MICRO["classes"])

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x) + self.colour(x.mean((2, 3)))


class Scaled(nn.Module):
    """The patches read a product of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()
        self.register_buffer("gain", torch.tensor([1.0, 2.0, 0.5]).reshape(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x * self.gain)


class TwoInputs(nn.Module):
    """An image, and the features of another model that are embedded alike."""

    def __init__(self) -> None:
        super().__init__()
        self.vit, self.embed = plain_model(), nn.Conv2d(20, MICRO["dim"], 1, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        patches = self.vit.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([patches, self.embed(features).flatten(2).transpose(1, 2)], 1)
        for block in self.vit.blocks:
            x = block(x)
        return self.vit.head(self.vit.norm(x).mean(1))


def folded(model: nn.Module, *inputs: Tensor) -> torch.fx.GraphModule:
    return fold_input_normalization(canonicalize(capture(randomize(model), inputs)), STD)


@pytest.mark.parametrize("model", [Stem, Shared])
def test_what_is_not_an_image_of_patches_alone_is_left(
    model: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    assert not pixels_of(folded(model(), images(1)))
    assert "input_normalization is not used" in caplog.text


def test_one_of_two_inputs(caplog: pytest.LogCaptureFixture) -> None:
    graph_module = folded(TwoInputs(), images(1), torch.zeros(1, 20, 4, 4))
    (node,) = (node for node in graph_module.graph.nodes if PIXELS in node.meta)
    assert node.args[0].name == "x"
    assert not caplog.records


@pytest.mark.parametrize("model", [Stem, Shared])
def test_the_program_is_right_without_it(model: type[nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    float_model, x = randomize(model()), normalized(9)
    program = packqvit_delegate.export(float_model, (x[:1],), x[:8], bits=8, input_normalization=NORMALIZATION)
    assert caplog.text.count("input_normalization is not used") == 1
    (actual,) = runtime.load(program.buffer).run(x[8:])
    expected = float_model(x[8:])
    torch.testing.assert_close(actual, program.integer_module(x[8:]))
    assert (actual - expected).norm() < 0.05 * expected.norm()


def test_what_scales_the_image_inside_is_part_of_the_patches() -> None:
    float_model, x = randomize(Scaled()), normalized(9)
    assert pixels_of(folded(Scaled(), x[:1]))
    options = {"input_normalization": NORMALIZATION, "byte_input": "chw"}
    program = packqvit_delegate.export(float_model, (x[:1],), x[:8], bits=8, **options)
    assert program.report.is_whole
    pixels = torch.randint(0, 256, x[8:].shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(5))
    (actual,) = runtime.load(program.buffer).run(pixels)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in NORMALIZATION)
    expected = float_model((pixels / 255 - mean) / std)
    assert torch.equal(actual, program.integer_module(pixels))
    assert (actual - expected).norm() < 0.05 * expected.norm()


def test_bytes_are_refused_where_other_things_read_the_image() -> None:
    x = normalized(2)
    with pytest.raises(PackQViTError, match="patch embedding"):
        packqvit_delegate.export(
            randomize(Shared()), (x[:1],), x, bits=8, input_normalization=NORMALIZATION, byte_input="hwc"
        )


def test_another_number_of_channels() -> None:
    with pytest.raises(PackQViTError, match="has 1 channels, but the model takes images of 3"):
        fold_input_normalization(canonicalize(capture(plain_model(), (images(1),))), (0.5,))
