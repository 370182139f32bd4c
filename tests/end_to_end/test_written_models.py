"""Models as people write them: windows, tiles and views in the batch, skips, gates and adapters, odd patches."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import MICRO, PlainAttention, PlainBlock, Style, images, plain_model, randomize
from packqvit_delegate import Program, QuantizationConfig, TuningMethod, export, quantize, runtime
from packqvit_delegate.api import finish
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.preparation import make_pair
from packqvit_delegate.sensitivity.report import measure
from programs import assert_exact, signal_to_noise

DIM, SIDE = MICRO["dim"], 4
PIXELS = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


class Model(nn.Module):
    """Patches on a map of 4 x 4, blocks, and a classifier on the mean; `forward` says how they come together."""

    def __init__(self, forward: Callable[[Model, Tensor], Tensor], patch: tuple[int, int] = (8, 8)) -> None:
        super().__init__()
        self.function = forward
        self.patch = nn.Conv2d(3, DIM, patch, patch, padding="valid")
        self.position = nn.Parameter(torch.zeros(1, DIM, SIDE, SIDE))
        self.blocks = nn.ModuleList(PlainBlock(DIM, 1, Style()) for _ in range(1))
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, MICRO["classes"])
        self.gate = nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)

    def tokens(self, x: Tensor) -> Tensor:
        """[B, 16, D]."""
        return (self.patch(x) + self.position).flatten(2).transpose(1, 2)

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean(1))


def windows(x: Tensor, height: int, width: int) -> Tensor:
    """[B, 4, 4, D] -> [B * windows, height * width, D]."""
    x = x.reshape(-1, SIDE // height, height, SIDE // width, width, DIM)
    return x.transpose(2, 3).reshape(-1, height * width, DIM)


def together(x: Tensor, height: int, width: int) -> Tensor:
    """The counterpart of `windows`."""
    x = x.reshape(-1, SIDE // height, SIDE // width, height, width, DIM)
    return x.transpose(2, 3).reshape(-1, SIDE, SIDE, DIM)


def stream_in_windows(m: Model, x: Tensor) -> Tensor:
    """As for images of their own, and back in the order of the image before pooling."""
    x = windows((m.patch(x) + m.position).permute(0, 2, 3, 1), 2, 4)
    for block in m.blocks:
        x = block(x)
    return m.pooled(together(x, 2, 4).flatten(1, 2))


def attention_in_shifted_windows(m: Model, x: Tensor) -> Tensor:
    x = m.tokens(x)
    for block in m.blocks:
        y = block.norm1(x).unflatten(1, (SIDE, SIDE)).roll((-1, -1), (1, 2))
        y = together(block.attention(windows(y, 2, 2)), 2, 2).roll((1, 1), (1, 2))
        x = x + y.flatten(1, 2)
        x = x + block.fc2(block._activation(block.fc1(block.norm2(x))))
    return m.pooled(x)


def stream_on_the_map(m: Model, x: Tensor) -> Tensor:
    x = m.patch(x).permute(0, 2, 3, 1) + m.position.permute(0, 2, 3, 1)
    for block in m.blocks:
        x = x + together(block.attention(windows(block.norm1(x), 4, 2)), 4, 2)
        x = x + block.fc2(block._activation(block.fc1(block.norm2(x))))
    return m.head(m.norm(x).mean((1, 2)))


def plain(m: Model, x: Tensor) -> Tensor:
    x = m.tokens(x)
    for block in m.blocks:
        x = block(x)
    return m.pooled(x)


def skips(m: Model, x: Tensor) -> Tensor:
    x = m.tokens(x)
    for block in m.blocks:
        x = block.attention(block.norm1(x)) * 0.5 + x * 0.75
        x = x - block.fc2(block._activation(block.fc1(block.norm2(x)))) * torch.sigmoid(m.gate.bias)
    return m.pooled(x)


def gated(m: Model, x: Tensor) -> Tensor:
    x = m.tokens(x)
    for block in m.blocks:
        y = block.norm1(x)
        x = torch.sigmoid(m.gate(y)) * block.attention(y) + x
        x = block.fc2(block._activation(block.fc1(block.norm2(x)))) - x
    return m.pooled(x)


def tiles(m: Model, x: Tensor) -> Tensor:
    """An image of 64 x 32 in two."""
    tiled = x.reshape(-1, 3, 2, 32, 32).transpose(1, 2).flatten(0, 1)
    return plain(m, tiled).unflatten(0, (-1, 2)).amax(1)


def views(m: Model, x: Tensor) -> Tensor:
    return plain(m, torch.cat([x, x.flip(3)])).unflatten(0, (2, -1)).mean(0)


def contrast(m: Model, x: Tensor) -> Tensor:
    """Images of a batch are mixed."""
    y = plain(m, x)
    return y - y.mean(0, keepdim=True)


WHOLE: dict[str, tuple[Callable[[Model, Tensor], Tensor], int]] = {
    "stream_in_windows": (stream_in_windows, 2),
    "attention_in_shifted_windows": (attention_in_shifted_windows, 1),
    "stream_on_the_map": (stream_on_the_map, 1),
    "skips": (skips, 1),
}
OUTSIDE: dict[str, tuple[Callable[[Model, Tensor], Tensor], int, tuple[int, ...]]] = {
    "gated": (gated, 1, (3, 32, 32)),
    "tiles": (tiles, 1, (3, 64, 32)),
    "views": (views, 2, (3, 32, 32)),
    "contrast": (contrast, 2, (3, 32, 32)),
}


def pictures(count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def check(program: Program, model: nn.Module, x: Tensor, at_once: int, least: float = 20) -> None:
    with torch.no_grad():
        expected = torch.cat([model(part) for part in x.split(at_once)])
        found = torch.cat([program.integer_module(part) for part in x.split(at_once)])
    assert signal_to_noise(expected, found) > least


@pytest.mark.parametrize("name", WHOLE)
def test_whole(name: str) -> None:
    function, at_once = WHOLE[name]
    model, x = randomize(Model(function)), pictures(4, 3, 32, 32)
    program = export(model, (x[:at_once],), x, bits=8)
    assert program.report.is_whole, program.report.render()
    assert_exact(program, x[:4])
    check(program, model, x, at_once)


@pytest.mark.parametrize("name", OUTSIDE)
def test_right_with_something_outside(name: str) -> None:
    function, at_once, shape = OUTSIDE[name]
    model, x = randomize(Model(function)), pictures(4, *shape)
    program = export(model, (x[:at_once],), x, bits=8)
    assert not program.report.is_whole
    check(program, model, x, at_once)
    (found,) = runtime.load(program.buffer).run(x[:at_once])
    torch.testing.assert_close(found, program.integer_module(x[:at_once]), atol=0.1, rtol=0)


def test_patches_that_leave_pixels_over_take_bytes() -> None:
    """Patches of 8 x 4 in images of 35 x 18: three rows and two columns of pixels are in none."""
    model = randomize(Model(plain, (8, 4)))
    pixels = torch.randint(0, 256, (4, 3, 35, 18), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in PIXELS)
    x = (pixels / 255 - mean) / std
    config = dataclasses.replace(QuantizationConfig.preset("w8a8"), input_normalization=PIXELS)
    integer = quantize(model, (x[:1],), x, config)
    for layout in ("hwc", "chw"):
        program = finish(copy.deepcopy(integer), (x[:1],), config, layout)
        assert program.report.is_whole, program.report.render()
        given = pixels.permute(0, 2, 3, 1).contiguous() if layout == "hwc" else pixels
        assert_exact(program, given)
        found = torch.cat([program.integer_module(image) for image in given.split(1)])
        assert signal_to_noise(model(x).detach(), found) > 20


def test_adapters_are_merged_where_they_are() -> None:
    class Adapted(nn.Module):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__()
            self.base_layer, self.dropout = base, nn.Dropout(0.1)
            self.down = nn.Linear(base.in_features, 4, bias=False)
            self.up = nn.Linear(4, base.out_features, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.base_layer(x) + self.up(self.down(self.dropout(x))) * 0.5

    model = plain_model(projection="query_and_kv")
    del model.blocks[1:]
    for module in [m for m in model.modules() if isinstance(m, (PlainAttention, PlainBlock))]:
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(module, name, Adapted(layer))
    model.head = Adapted(model.head)
    x = images(4)
    program = export(randomize(model), (x[:1],), x, bits=8)
    assert program.report.is_whole, program.report.render()
    check(program, model, x, 1)


@pytest.mark.parametrize("function", [stream_in_windows, contrast], ids=["windows", "mixed"])
def test_tuning_and_the_sensitivity_report(function: Callable[[Model, Tensor], Tensor]) -> None:
    """They run on many images, or on as many as the model was exported for where these are mixed."""
    at_once = 2
    model, x = randomize(Model(function)), pictures(20, 3, 32, 32)
    tuning = TuningMethod(steps=2, batch=4, micro_batch=4, held_out=0.2, checks=1)
    program = export(model, (x[:at_once],), x[:8], bits=4, tuning=tuning, tuning_images=x)
    check(program, model, x[:4], at_once, least=3)
    batches = Batches(x[:8], (x[:at_once],))
    pair = make_pair(model, (x[:at_once],), batches, QuantizationConfig.preset("w8a8"))
    report = measure(pair.reference, pair.to_integer(), batches)
    assert report.images == 8 and report.operators[-1].snr > 15
