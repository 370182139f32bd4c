"""An export leaves nothing behind."""

from __future__ import annotations

import gc
import linecache
import resource
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule, graph_module

import packqvit_delegate
from models import MICRO, PlainViT, Style, images, randomize
from packqvit_delegate import PackQViTError, QuantizationConfig, api, qat
from packqvit_delegate.release import release, released

X = images(2)
W8A8 = QuantizationConfig.preset("w8a8")


def model(dim: int = MICRO["dim"]) -> nn.Module:
    return randomize(PlainViT(Style(), dim=dim, depth=1))


def export() -> None:
    packqvit_delegate.export(model().bfloat16(), (X[:1],), X, bits=8)


def train() -> None:
    qat.export(qat.prepare(model(), (X[:1],), X, W8A8))


def fail() -> None:
    with pytest.raises(PackQViTError, match="top_k is 11"):
        packqvit_delegate.export(model(), (X[:1],), X, bits=8, top_k=11)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[nn.Module]]:
    """Weak references to all graph modules that are made while the test runs."""
    found: list[weakref.ref[nn.Module]] = []
    init = GraphModule.__init__

    def watched(self: GraphModule, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        found.append(weakref.ref(self))

    monkeypatch.setattr(GraphModule, "__init__", watched)
    return found


@pytest.mark.parametrize("run", [export, train, fail])
def test_graphs_and_tensors_go(run: Callable[[], None], made: list[weakref.ref[nn.Module]]) -> None:
    run()
    gc.collect()
    sources = len(graph_module._loader.eval_cache)
    made.clear()
    before = tensors()
    run()
    gc.collect()
    assert len(made) > 5
    # Passes that ExecuTorch shares between programs hold a new, empty one each.
    assert not [graph for ref in made if (graph := ref()) is not None and len(graph.graph.nodes)]
    assert tensors() <= before + 10
    release()
    assert len(graph_module._loader.eval_cache) <= sources


def tensors() -> int:
    return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())


def resident() -> float:
    """Of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_the_resident_size_stays_level() -> None:
    sizes = []
    for _ in range(4):
        packqvit_delegate.export(model(dim=240), (X[:1],), X, bits=8)
        sizes.append(resident())
    assert sizes[-1] - sizes[1] < 20


def test_the_integer_module_keeps_its_source() -> None:
    module = packqvit_delegate.quantize(model(), (X[:1],), X, W8A8)
    gc.collect()
    release()
    name = module.forward.__func__.__code__.co_filename
    assert "packqvit" in "".join(linecache.getlines(name))


def test_release_at_the_outer_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr("packqvit_delegate.release.release", lambda collect: calls.append(collect))
    with released(nn.Linear(2, 2)):
        with pytest.raises(KeyError), released(nn.Linear(2, 2)):
            raise KeyError
        assert not calls
    assert calls == [False]
    with released(nn.Linear(1024, 1024)):
        pass
    assert calls == [False, True]


def test_what_is_exported_can_be_lowered_again() -> None:
    integer = packqvit_delegate.quantize(model(), (X[:1],), X, W8A8)
    first = api.lower(integer, (X[:1],))
    assert first.buffer == api.lower(integer, (X[:1],)).buffer
