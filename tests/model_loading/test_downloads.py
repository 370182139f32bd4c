"""Downloads of weights step through the caller's progress; the hub's client is real but for the network."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from cli.conftest import CONFIG
from models import randomize
from packqvit_delegate import models
from packqvit_delegate.models import VisionTransformer
from packqvit_delegate.models.downloads import downloads_shown

hub = pytest.importorskip("huggingface_hub")
bars = importlib.import_module("huggingface_hub.utils.tqdm")
MIB = 2**20


def download(total: int | None, sizes: Iterable[int]) -> None:
    """What the hub's client does with a bar while it downloads, here of nothing."""
    context = bars._get_progress_bar_context(desc="model.safetensors", log_level=logging.WARNING, total=total)
    with context as bar:
        for size in sizes:
            bar.update(size)


class Recorder:
    """A Progress that notes what it wraps, and how many steps were done when it ended."""

    def __init__(self) -> None:
        self.loops: list[list[Any]] = []

    def __call__(self, items: Iterable[Any], description: str, length: int | None) -> Iterator[Any]:
        self.loops.append([description, length, 0])
        for item in items:
            yield item
            self.loops[-1][2] += 1


@pytest.mark.parametrize(
    ("total", "sizes", "loops"),
    [
        (3 * MIB, [MIB] * 3, [["downloading, MiB", 3, 3]]),
        (2 * MIB + 1, [5 * MIB // 2, -MIB, 1, MIB // 2], [["downloading, MiB", 3, 3]]),  # the hub tries again
        (2 * MIB + 1, [2 * MIB, 1], [["downloading, MiB", 3, 3]]),
        (None, [MIB, MIB // 2, MIB // 2], [["downloading, MiB", None, 2]]),
        (MIB - 1, [MIB - 1], []),
    ],
)
def test_steps_are_those_of_the_bytes(total, sizes, loops):
    recorder = Recorder()
    with downloads_shown(recorder):
        download(total, sizes)
    assert recorder.loops == loops


def test_a_download_that_breaks_off_and_one_within_another():
    recorder, own = Recorder(), bars.tqdm

    def sizes() -> Iterator[int]:
        yield MIB
        download(9 * MIB, [9 * MIB])  # in parallel: it is not shown
        raise OSError("no route")

    with pytest.raises(OSError, match="no route"), downloads_shown(recorder):
        download(3 * MIB, sizes())
    assert bars.tqdm is own
    with downloads_shown(recorder):
        download(2 * MIB, [2 * MIB])
    assert recorder.loops == [["downloading, MiB", 3, 1], ["downloading, MiB", 2, 2]]


def test_without_a_progress_the_hub_is_left_alone():
    own = bars.tqdm
    with downloads_shown(None):
        assert bars.tqdm is own


def serve(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the hub's client get a file in three pieces, with a warning before each."""

    def sizes() -> Iterator[int]:
        for _ in range(3):
            logging.getLogger("packqvit_delegate").warning("a word meanwhile")
            yield MIB

    def fetch(repository: str, file: str) -> str:
        download(3 * MIB, sizes())
        return str(path)

    monkeypatch.setattr(hub, "hf_hub_download", fetch)


def test_models_are_loaded_with_progress(monkeypatch, tmp_path):
    recorder, entry = Recorder(), models.ZOO["vit_tiny"]
    monkeypatch.setitem(models.ZOO, "vit_tiny", dataclasses.replace(entry, config=CONFIG))
    save_file(randomize(VisionTransformer(CONFIG)).state_dict(), tmp_path / "w.safetensors")
    serve(tmp_path / "w.safetensors", monkeypatch)
    assert models.load("vit_tiny", progress=recorder).weights == entry.repository
    assert recorder.loops == [["downloading, MiB", 3, 3]]
