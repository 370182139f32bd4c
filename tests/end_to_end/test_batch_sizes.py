"""Programs with a method for each number of images: one calibration, the bits of single programs, the weights once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphs import Lambda
from models import export as float_graph
from models import images, plain_model, randomize, timm_swin
from packqvit_delegate import PackQViTError, QuantizationConfig, UnsupportedModelError, api, export, runtime
from packqvit_delegate.methods import for_images
from packqvit_delegate.models import VisionTransformer, ViTConfig
from packqvit_delegate.passes import fold_constants
from packqvit_delegate.runtime.description import describe
from programs import flat_outputs, micro_program


def answers(program: api.Program, method: str, batch: torch.Tensor, **options: Any) -> list[torch.Tensor]:
    """What a method gives for a batch, in parts of its own size."""
    model = runtime.load(program.buffer, method, **options)
    parts = [model.run(part) for part in batch.split(model.inputs()[0].shape[0])]
    return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


def test_each_method_is_a_program_of_its_own() -> None:
    x = images(8)
    program = export(plain_model(), (x[:1],), x, bits=4, batch_sizes=(1, 4))
    assert list(program.methods) == ["forward", "forward_4"] and program.methods["forward"] is program.integer_module
    assert program.report.is_whole
    of_four = export(plain_model(), (x[:4],), x, bits=4)
    for tier in runtime.supported_tiers():
        (expected,) = answers(micro_program("W4A4"), "forward", x, tier=tier)
        assert torch.equal(answers(of_four, "forward", x, tier=tier)[0], expected)
        for method in program.methods:
            assert torch.equal(answers(program, method, x, tier=tier)[0], expected)
    with torch.no_grad():
        assert torch.equal(flat_outputs(program.methods["forward_4"](x[:4]))[0], expected[:4])


def test_windows_and_the_ends_of_an_application() -> None:
    """Attention in windows, which are folded into the batch; bytes in, best classes out; the first size is not one."""
    x = images(6)
    pixels = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    program = export(
        timm_swin(),
        (x[:1],),
        x,
        bits=8,
        input_normalization=([0.5] * 3, [0.5] * 3),
        byte_input="hwc",
        top_k=3,
        batch_sizes=(3, 1),
    )
    assert program.report.is_whole
    assert [runtime.load(program.buffer, name).inputs()[0].shape[0] for name in ("forward", "forward_1")] == [3, 1]
    for threes, ones in zip(*(answers(program, name, pixels) for name in ("forward", "forward_1")), strict=True):
        assert torch.equal(threes, ones)


def test_the_weights_are_in_the_file_once() -> None:
    model = randomize(VisionTransformer(ViTConfig(image_size=32, patch_size=8, num_classes=10, dim=192, depth=1)))
    x, config = images(2), QuantizationConfig.preset("w8a8")
    integer = api.quantize(model, (x[:1],), x, config)
    one = api.lower(integer, (x[:1],)).buffer
    both = api.finish(integer, (x[:1],), config, batch_sizes=(1, 4)).buffer
    assert len(both) < 1.05 * len(one)
    first, second = (describe(both, method) for method in ("forward", "forward_4"))
    assert first.methods == ("forward", "forward_4") and describe(one).methods == ("forward",)
    assert first.operators == second.operators == describe(one).operators
    assert first.constants == second.constants == describe(one).constants
    assert second.arena > first.arena == describe(one).arena


@pytest.mark.parametrize("sizes", [(), (0,), (1, 0), (1, -4), (2, 2), (1, 4, 1)])
def test_numbers_that_are_none(sizes: tuple[int, ...]) -> None:
    x = images(1)
    with pytest.raises(PackQViTError, match="one or more numbers of images, from 1 on and each once"):
        export(plain_model(), (x,), x, batch_sizes=sizes)


@pytest.mark.parametrize("sizes", [4, (1, 2.0), (True,), "14"])
def test_what_is_no_list_of_numbers(sizes: Any) -> None:
    x = images(1)
    with pytest.raises(PackQViTError, match="batch_sizes"):
        export(plain_model(), (x,), x, batch_sizes=sizes)


def test_a_model_that_mixes_images() -> None:
    graph = float_graph(Lambda(lambda _, x: x - x.mean(0)), images(1))
    with pytest.raises(UnsupportedModelError, match="for 4 images cannot be made .* mean.*: export with"):
        for_images(graph, 4)


def test_constants_that_are_there_once_for_each_image() -> None:
    def windows(module: Any, x: torch.Tensor) -> torch.Tensor:
        """Four windows of each image, folded into the batch; each has a bias of its own."""
        return x.reshape(-1, 5) + module.bias.repeat(x.shape[0], 1)

    x, model = torch.randn(6, 4, 5), Lambda(windows, bias=torch.randn(4, 5))
    graph = fold_constants(float_graph(model, x[:2]))
    for count in (1, 2, 6):
        with torch.no_grad():
            assert torch.equal(for_images(graph, count)(x[:count]), model(x[:count]))


def test_a_method_that_is_not_there() -> None:
    content = micro_program("W4A4").buffer
    with pytest.raises(PackQViTError, match=r"no method 'forward_4', only \['forward'\]"):
        runtime.load(content, "forward_4")
    with pytest.raises(PackQViTError, match="no method 'forward_4', only forward"):
        describe(content, "forward_4")
