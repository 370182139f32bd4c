"""A program with everything that a page can show, and names that would be HTML."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from models import images, plain_model
from packqvit_delegate import CalibrationMethod, Metadata, Program, export
from packqvit_delegate.data import ImageFolder, Preprocessing
from packqvit_delegate.report_page import Judgement, Timing

NAMES = tuple(f"<b>class</b> {i} & \"'" for i in range(10))
MODEL = "<script>alert(1)</script> & co"
FOLDER = "photos <&> \"'"
CHEAP = CalibrationMethod(rounding="nearest", bias_correction=False, compensation=False, token_importance=False)
PIXELS = Preprocessing(size=32, crop_fraction=1.0)


class Cumulative(nn.Module):
    """A plain model whose logits are summed up, for which there is no integer operator."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = plain_model()

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x).cumsum(1)


@dataclass
class Made:
    """A program, what was measured of it, and its float model."""

    program: Program
    judged: Judgement
    timing: Timing
    model: nn.Module


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """4-bit, judged on 16 pictures of noise."""
    place = tmp_path_factory.mktemp("page")
    (place / FOLDER).mkdir()
    generator = torch.Generator().manual_seed(0)
    lines = ["file,label"]
    for i in range(16):
        pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(place / FOLDER / f"<i>{i}&.png")
        lines.append(f"<i>{i}&.png,{i % 10}")
    (place / FOLDER / "labels.csv").write_text("\n".join(lines))
    model, x = Cumulative(), images(8)
    metadata = Metadata(MODEL, PIXELS, NAMES, "classification")
    program = export(model, (x[:1],), x, bits=4, method=CHEAP, metadata=metadata, compared=x[:2])
    program.save(place / "a.pte")
    folder = ImageFolder.open(place / FOLDER)
    judged = Judgement.of(place / "a.pte", folder, PIXELS, model, class_names=NAMES)
    return Made(program, judged, Timing.of(place / "a.pte", runs=2), model)


@pytest.fixture(scope="package")
def bare() -> Program:
    """8-bit, from bytes to the best classes, and nothing else is known of it."""
    x, normalization = images(2).clamp(-1, 1), ((0.5,) * 3, (0.5,) * 3)
    model, example = plain_model(), (x[:1],)
    return export(model, example, x, bits=8, method=CHEAP, input_normalization=normalization, byte_input="hwc", top_k=3)
