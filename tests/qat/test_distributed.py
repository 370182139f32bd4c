"""Several processes train one model with standard PyTorch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import distributed, multiprocessing

from models import plain_model
from packqvit_delegate import PackQViTError, qat
from qat.support import data, method, parameters, prepared

BATCH, STEPS = 8, 4


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        model = prepared()
        checkpoint = Path(folder) / "qat.pt"
        chosen = method(steps=STEPS, batch=BATCH // 2)
        history = qat.train(
            model, data(), teacher=plain_model(), method=chosen, checkpoint=checkpoint, evaluate=lambda m: rank
        )
        torch.save((parameters(model), history.checks), Path(folder) / f"{rank}.pt")
        try:
            qat.train(prepared(), data(), teacher=plain_model(), method=method(batch=25))
        except PackQViTError as error:
            (Path(folder) / f"{rank}.txt").write_text(str(error))
    finally:
        distributed.destroy_process_group()


def test_two_processes_train_like_one_with_twice_the_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    (first, checks), (second, other_checks) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert checks == [(0, 0.0), (STEPS, 0.0)] and other_checks == []
    alone = prepared()
    before = parameters(alone)
    qat.train(alone, data(), teacher=plain_model(), method=method(steps=STEPS, batch=BATCH))
    moved = torch.cat([(value - before[name]).flatten() for name, value in parameters(alone).items()])
    apart = torch.cat([(value - first[name]).flatten() for name, value in parameters(alone).items()])
    # Sums in another order cross a rounding border here and there.
    assert apart.square().mean() < 0.05 * moved.square().mean()
    assert (tmp_path / "qat.pt").is_file()
    for rank in (0, 1):
        assert "48 images, but one step takes 50" in (tmp_path / f"{rank}.txt").read_text()


def test_half_a_batch_is_something_else() -> None:
    """The comparison above can tell a share of the batch from all of it."""
    whole, half, before = prepared(), prepared(), parameters(prepared())
    qat.train(whole, data(), teacher=plain_model(), method=method(steps=STEPS, batch=BATCH))
    qat.train(half, data(), teacher=plain_model(), method=method(steps=STEPS, batch=BATCH // 2))
    a, b = parameters(whole), parameters(half)
    moved = torch.cat([(a[name] - before[name]).flatten() for name in a])
    apart = torch.cat([(a[name] - b[name]).flatten() for name in a])
    assert apart.square().mean() > 0.25 * moved.square().mean()
