"""Interrupted trainings go on to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models import images, plain_model
from packqvit_delegate import PackQViTError, qat
from qat.support import data, method, parameters, prepared

STEPS = {"steps": 7, "smallest_crop": 0.5}


class PowerCut(Exception):
    """Of a power cut."""


def interrupted(path: Path, integer_functions: bool = False, **changes: Any) -> None:
    """Trains for five steps; the last checkpoint is that of step 4."""

    def cut(items: Any, description: str, length: int | None) -> Any:
        for index, item in enumerate(items):
            if index == 5:
                raise PowerCut
            yield item

    with pytest.raises(PowerCut):
        qat.train(
            prepared(integer_functions),
            data(),
            teacher=plain_model(),
            method=method(**STEPS, **changes),
            checkpoint=path,
            every=2,
            progress=cut,
        )


@pytest.mark.parametrize(
    ("changes", "integer_functions"),
    [
        ({}, False),
        ({}, True),
        ({"ema": None}, False),
        ({"unrounded": 0.5, "mixup": 0.5, "cutmix": 0.5}, False),
    ],
)
def test_a_resumed_training_gives_the_same_bits(
    tmp_path: Path, changes: dict[str, Any], integer_functions: bool
) -> None:
    straight = prepared(integer_functions)
    expected = qat.train(straight, data(), teacher=plain_model(), method=method(**STEPS, **changes))
    path = tmp_path / "qat.pt"
    interrupted(path, integer_functions, **changes)
    torch.manual_seed(99)  # nothing of this process's past counts
    resumed = prepared(integer_functions)
    history = qat.train(
        resumed, data(), teacher=plain_model(), method=method(**STEPS, **changes), checkpoint=path, every=2
    )
    wanted = parameters(straight)
    assert all(torch.equal(value, wanted[name]) for name, value in parameters(resumed).items())
    assert history.losses == expected.losses and history.rates == expected.rates
    x = images(2)
    assert torch.equal(qat.convert(resumed)(x[:1]), qat.convert(straight)(x[:1]))
    assert not list(tmp_path.glob("*.partial"))


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    path, models = tmp_path / "qat.pt", [prepared(), prepared()]
    for model in models:
        qat.train(model, data(), teacher=plain_model(), method=method(), checkpoint=path)
    first, second = (parameters(model) for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "qat.pt"
    interrupted(path)

    def resume(model: qat.QatModel, **changes: Any) -> None:
        qat.train(model, data(), teacher=plain_model(), method=method(**STEPS, **changes), checkpoint=path)

    with pytest.raises(PackQViTError, match="was trained with seed 0, not 1; resume with the same method"):
        resume(prepared(), seed=1)
    with pytest.raises(PackQViTError, match="is of another model"):
        resume(prepared(residual="int8"))
    content = torch.load(path)
    del content["method"]["cutmix"]  # of a version that did not have it yet
    torch.save(content, path)
    resume(prepared())
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(PackQViTError, match="cannot read the checkpoint .*qat.pt"):
        resume(prepared())
