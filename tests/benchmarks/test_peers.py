"""The peers of a micro ViT, made and run by their own libraries."""

from __future__ import annotations

import pytest
import torch

from benchmarks import peers
from benchmarks.contestants import Workshop
from benchmarks.engines import load
from benchmarks.peers import PEERS, XNNPACK_8DA4W, XNNPACK_FP32, Peer, make_peers
from models import images, randomize
from packqvit_delegate.data import Preprocessing
from packqvit_delegate.models import LoadedModel, ViTConfig
from programs import signal_to_noise

CONFIG = ViTConfig(image_size=32, patch_size=8, num_classes=10, dim=64, depth=1, heads=2)


@pytest.fixture
def workshop(tmp_path) -> Workshop:
    module = randomize(CONFIG.build()).eval()
    loaded = LoadedModel("micro", module, Preprocessing(32), "random", random=True)
    return Workshop("micro", tmp_path, fresh=True, loaded=loaded, images=images(8))


def answers(workshop: Workshop, peer: Peer) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a peer and of the float model for images that it was not calibrated with."""
    (contestant,) = make_peers(workshop, [peer])
    assert contestant.size == sum(file.stat().st_size for file in contestant.files) > 10_000
    run, others = load(contestant, 1), images(4, seed=1)
    with torch.no_grad():
        return torch.cat([run(image).clone() for image in others.split(1)]), workshop.loaded.module(others)


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.file)
def test_every_peer_answers_nearly_like_the_float_model(workshop: Workshop, peer: Peer) -> None:
    for name in peer.needs:
        pytest.importorskip(name)
    got, wanted = answers(workshop, peer)
    least = {XNNPACK_FP32: 80.0, XNNPACK_8DA4W: 10.0}.get(peer.name, 15.0)
    assert signal_to_noise(wanted, got) > least
    if peer.name != XNNPACK_FP32:
        assert signal_to_noise(wanted, got) < 60  # it is quantised


def test_what_is_missing_or_fails_is_named_and_left_out(workshop: Workshop, monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(peers.progress, "print", lambda text, **_: print(text))
    made = make_peers(
        workshop,
        [
            Peer("One", "executorch", "one.pte", fail),
            Peer("Two", "onnxruntime", "two.onnx", fail, ("a_library_that_nobody_has", "torch")),
        ],
    )
    assert made == []
    assert capsys.readouterr().out.splitlines() == [
        f"exporting {workshop.folder / 'one.pte'}",
        "left out: One: RuntimeError: no such operator",
        "left out: Two needs a_library_that_nobody_has: .venv/bin/pip install a_library_that_nobody_has",
    ]


def test_what_is_there_is_kept_unless_the_workshop_is_fresh(workshop: Workshop) -> None:
    made: list[str] = []
    peer = Peer("One", "executorch", "one.pte", lambda model, images, path: made.append(path.write_text("x") and "x"))
    for fresh, count in ((False, 1), (False, 1), (True, 2)):
        workshop.fresh = fresh
        assert [each.name for each in make_peers(workshop, [peer])] == ["One"]
        assert len(made) == count
