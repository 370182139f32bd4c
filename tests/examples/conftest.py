"""What the commands' tests share: a micro model in the place of a real one, and a way to call a command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from models import randomize
from packqvit_delegate.models import ZOO, VisionTransformer, ViTConfig


@pytest.fixture
def micro_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ViTConfig]:
    """Makes a name of the zoo a micro model with so many classes; its weights are in `w.safetensors`."""
    monkeypatch.chdir(tmp_path)

    def place(name: str, classes: int, depth: int = 2) -> ViTConfig:
        config = ViTConfig(image_size=32, patch_size=8, num_classes=classes, dim=48, depth=depth)
        monkeypatch.setitem(ZOO, name, replace(ZOO[name], config=config))
        save_file(randomize(VisionTransformer(config)).state_dict(), "w.safetensors")
        return config

    return place


@pytest.fixture
def invoke() -> Callable[..., str]:
    """Calls a command, asks for its exit code, and returns what it printed, without tables' lines, on one line."""

    def invoke(app: typer.Typer, arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, arguments.split())
        assert result.exit_code == code, (result.output, result.exception)
        return " ".join(result.output.replace("│", " ").split())

    return invoke
