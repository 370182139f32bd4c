"""The picture of a training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from packqvit_delegate import qat
from packqvit_delegate.errors import PackQViTError

pyplot = pytest.importorskip("matplotlib.pyplot")


def drawn(history: qat.History, path: Path, monkeypatch: pytest.MonkeyPatch, float_accuracy: float | None = None):
    """The two axes of the picture; it is closed, but what was drawn stays."""
    made = []
    subplots = pyplot.subplots

    def kept(*arguments, **options):
        made.append(subplots(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(pyplot, "subplots", kept)
    qat.plot(history, path, "micro", float_accuracy)
    assert path.read_bytes()[:4] == b"\x89PNG" and not pyplot.get_fignums()
    return made[0][1]


def test_it_shows_the_curves_and_the_float_model(tmp_path: Path, monkeypatch) -> None:
    history = qat.History([float(40 - i) for i in range(40)], [1.0] * 40, [(0, 0.5), (20, 1.0), (40, 0.97)])
    left, right = drawn(history, tmp_path / "a.png", monkeypatch, 0.98)
    raw, mean = left.get_lines()
    assert list(raw.get_xdata()) == list(range(1, 41)) and list(raw.get_ydata()) == history.losses
    assert list(mean.get_xdata())[:2] == [1.5, 2.5] and list(mean.get_ydata())[:2] == [39.5, 38.5]
    integer, floats = right.get_lines()
    assert list(integer.get_xdata()) == [0, 20, 40] and list(integer.get_ydata()) == [0.5, 1.0, 0.97]
    assert list(floats.get_ydata()) == [0.98, 0.98]
    assert right.get_ylim()[1] == 1.0


def test_single_images_do_not_look_like_a_trend(tmp_path: Path, monkeypatch) -> None:
    _, right = drawn(qat.History([0.5], [1.0], [(0, 0.9), (1, 0.901)]), tmp_path / "a.png", monkeypatch)
    bottom, top = right.get_ylim()
    assert bottom < 0.9 < 0.901 < top and top - bottom >= 0.05


def test_a_training_of_one_step_and_one_without_evaluation(tmp_path: Path, monkeypatch) -> None:
    left, right = drawn(qat.History([0.5], [1.0], []), tmp_path / "a.png", monkeypatch)
    assert list(left.get_lines()[1].get_ydata()) == [0.5] and not list(right.get_lines()[0].get_xdata())


def test_it_refuses(tmp_path: Path, monkeypatch) -> None:
    history = qat.History([0.5], [1.0], [])
    with pytest.raises(PackQViTError, match=r"its name has to end in one of .*png"):
        qat.plot(history, tmp_path / "a")
    with pytest.raises(PackQViTError, match="there is no folder"):
        qat.plot(history, tmp_path / "gone" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PackQViTError, match="is a folder"):
        qat.plot(history, tmp_path / "folder.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PackQViTError, match="needs matplotlib"):
        qat.plot(history, tmp_path / "a.png")
