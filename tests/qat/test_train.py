"""Training on the integer grids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from models import Tower, images, plain_model
from packqvit_delegate import PackQViTError, qat, runtime
from packqvit_delegate.answers import divergence, losses
from packqvit_delegate.training.grids import LearnedAffine
from packqvit_delegate.training.losses import feature_distance
from packqvit_delegate.training.optimizer import LearningRates
from qat.support import data, method, parameters, prepared

WILD = LearningRates(weights=1e30, weight_scales=1e30, activation_scales=1e30, others=1e30)


def integer_distance(model: qat.QatModel, x: torch.Tensor) -> float:
    teacher, integer = plain_model(), qat.convert(model)
    with torch.no_grad():
        pairs = [(integer(image), teacher(image)) for image in x.split(1)]
    return float(divergence(torch.cat([b for _, b in pairs]), torch.cat([a for a, _ in pairs])).mean())


def test_the_program_learns_from_the_float_model_and_runs_what_was_trained() -> None:
    model, x = prepared(), images(24, seed=11)
    before = integer_distance(model, x)
    history = qat.train(model, data(300), teacher=plain_model(), method=method(steps=240, batch=16))
    assert integer_distance(model, x) < 0.85 * before
    assert len(history.losses) == 240 and sum(history.losses[-20:]) < 0.7 * sum(history.losses[:20])
    assert history.rates[0] == 1.0 and 0 < history.rates[-1] < 0.01
    program = qat.export(model)
    assert program.report.is_whole
    (answer,) = runtime.load(program.buffer).run(x[:1])
    assert torch.equal(answer, program.integer_module(x[:1]))


@pytest.mark.parametrize("residual", ["int16", "int8"])
def test_what_was_trained_is_bit_for_bit_what_runs(residual: str) -> None:
    model, x = prepared(integer_functions=True, residual=residual), images(4, seed=11)
    history = qat.train(model, data(), teacher=plain_model(), method=method())
    assert len(set(history.losses)) == 6
    program = runtime.load(qat.export(model).buffer)
    with torch.no_grad():
        assert torch.equal(model(x), torch.cat([program.run(image)[0] for image in x.split(1)]))


def test_several_numbers_of_images() -> None:
    model, x = prepared(), images(4, seed=3)
    program = qat.export(model, batch_sizes=(1, 4))
    ones, fours = (runtime.load(program.buffer, name) for name in ("forward", "forward_4"))
    assert torch.equal(fours.run(x)[0], torch.cat([ones.run(image)[0] for image in x.split(1)]))
    with pytest.raises(PackQViTError, match="one or more numbers of images, from 1 on and each once"):
        qat.export(model, batch_sizes=(2, 2))


def test_converting_is_no_end_of_training() -> None:
    model, x = prepared(), images(1)
    first = qat.convert(model)(x)
    assert torch.equal(qat.convert(model)(x), first)
    qat.train(model, data(), teacher=plain_model(), method=method())
    assert not torch.equal(qat.convert(model)(x), first)


def test_ends_of_the_program() -> None:
    model = prepared(input_normalization=((0.5,) * 3, (0.5,) * 3))
    pixels = (images(1, seed=3).clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8)
    classes, scores = runtime.load(qat.export(model, byte_input="chw", top_k=2).buffer).run(pixels)
    (logits,) = runtime.load(qat.export(model).buffer).run((pixels.float() / 255 - 0.5) / 0.5)
    assert torch.equal(scores, logits.topk(2).values) and torch.equal(classes.long(), logits.topk(2).indices)
    with pytest.raises(PackQViTError, match="byte_input needs input_normalization"):
        qat.export(prepared(), byte_input="hwc")


@pytest.mark.parametrize(
    "changes",
    [
        {"distillation": "hard", "label_weight": 0.5, "label_smoothing": 0.1},
        {"distillation": "none", "label_weight": 1.0},
        {"micro_batch": 4, "clip": None, "ema": None},
        {"autocast": True, "steps": 60},
        {"smallest_crop": 0.5, "steps": 160},
        {"outlier_weight": 0.1, "steps": 60},
    ],
)
def test_every_choice_trains(changes: dict[str, Any]) -> None:
    model = prepared(residual="int8" if "outlier_weight" in changes else "int16")
    before = parameters(model)
    chosen = method(**{"steps": 20, **changes})
    teacher = None if chosen.distillation == "none" else plain_model()
    history = qat.train(model, data(16, labels=chosen.label_weight > 0), teacher=teacher, method=chosen)
    quarter = len(history.losses) // 4  # no two steps see the same views: fewer would compare their luck
    assert sum(history.losses[-quarter:]) < sum(history.losses[:quarter])
    assert all(not torch.equal(value, before[name]) for name, value in parameters(model).items())


def test_a_batch_in_parts_gives_the_same_step() -> None:
    found = []
    for micro_batch in (None, 2):
        model = prepared()
        qat.train(model, data(), teacher=plain_model(), method=method(steps=1, micro_batch=micro_batch, ema=None))
        found.append(parameters(model))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-3)


def test_autocast_keeps_the_grids() -> None:
    model, x = prepared(), images(4, seed=3)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(x)
    assert not torch.equal(rough.float(), exact)
    assert (rough - exact).abs().mean() < 0.1 * exact.std()


def test_the_mean_of_the_parameters_is_evaluated_and_kept() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(model: qat.QatModel) -> float:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(parameters(model))
        return float(len(seen))

    model = prepared()
    chosen = method(steps=5, ema=0.9)
    history = qat.train(model, data(), teacher=plain_model(), method=chosen, evaluate=evaluate, every=2)
    assert history.checks == [(0, 1.0), (2, 2.0), (4, 3.0), (5, 4.0)]
    assert all(torch.equal(value, seen[0][name]) for name, value in parameters(prepared()).items())
    assert all(torch.equal(value, seen[-1][name]) for name, value in parameters(model).items())
    raw = prepared()
    qat.train(raw, data(), teacher=plain_model(), method=method(steps=5, ema=None))
    assert any(not torch.equal(value, seen[-1][name]) for name, value in parameters(raw).items())


class Features(nn.Module):
    """A model without a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.model = plain_model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.model._embed(self.model.patch(x))
        for block in self.model.blocks:
            x = block(x)
        return self.model.norm(x)


class WithNaN(Dataset):
    """Images of which the one that comes last in the second step holds a NaN."""

    def __len__(self) -> int:
        return 64

    def __init__(self, step: int, batch: int) -> None:
        self.calls, self.step, self.batch = 0, step, batch

    def __getitem__(self, index: int) -> torch.Tensor:
        image = images(1, seed=index)[0]
        self.calls += 1
        if self.calls == self.step * self.batch:
            image[0, 0, 0] = float("nan")
        return image


def test_a_loss_that_is_not_finite_says_where_it_began() -> None:
    with pytest.raises(PackQViTError, match="the loss is nan at step 3, from x on; lower"):
        qat.train(prepared(), WithNaN(3, 8), teacher=plain_model(), method=method())
    model = prepared()
    name = next(name for name in model.learned if "blocks__1" in name and "fc2__bias" in name)
    with torch.no_grad():
        model.learned[name].fill_(float("inf"))
    with pytest.raises(PackQViTError, match=r"the loss is nan at step 1, from blocks\.1\.fc2\.bias"):
        qat.train(model, data(), teacher=plain_model(), method=method())
    for integer_functions in (False, True):
        with pytest.raises(PackQViTError, match="training diverged: .* at step 2, from"):
            qat.train(prepared(integer_functions), data(), teacher=plain_model(), method=method(rates=WILD))


def test_a_gradient_that_is_not_finite_is_named() -> None:
    model = prepared()
    name, parameter = next((n, p) for n, p in model.named_parameters() if "fc1" in n and "bias" in n)
    parameter.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(PackQViTError, match=f"a gradient is not finite at step 1, from {name} on"):
        qat.train(model, data(), teacher=plain_model(), method=method())


@pytest.mark.parametrize(
    ("changes", "given", "message"),
    [
        ({}, {"teacher": None}, "distillation is 'soft': give the float model as teacher"),
        ({"distillation": "none", "label_weight": 1.0}, {}, "give no teacher"),
        ({"batch": 49}, {}, "48 images, but one step takes 49"),
        ({"label_weight": 0.5}, {}, "images without labels"),
        ({"outlier_weight": 1.0}, {}, "residual is not int8"),
        ({}, {"every": 0}, "every is 0"),
        ({}, {"data": TensorDataset(torch.zeros(48, 3, 40, 40))}, r"\[3, 40, 40\], the model takes \[3, 32, 32\]"),
        ({"unrounded": 0.5}, {"integer": True}, "set model.integer_functions to False"),
        ({"features": 1.0}, {}, r"the teacher has to be model\.float_model\(\)"),
        (
            {},
            {"teacher": nn.Sequential(plain_model(), nn.Unflatten(1, (2, 5)))},
            r"\[8, 2, 5\], the model with the shape \[8, 10\]",
        ),
        (
            {"distillation": "hard"},
            {"teacher": Features(), "model": Features()},
            r"the model gives the shape \[8, 17, 48\]",
        ),
    ],
)
def test_what_cannot_be_trained(changes: dict[str, Any], given: dict[str, Any], message: str) -> None:
    arguments = {"teacher": plain_model(), **given}
    x = images(16, seed=1)
    model = qat.prepare(arguments.pop("model"), (x[:1],), x) if "model" in arguments else prepared()
    model.integer_functions = arguments.pop("integer", False)
    with pytest.raises(PackQViTError, match=message):
        qat.train(model, arguments.pop("data", data()), method=method(**changes), **arguments)


def test_features_learn_as_well() -> None:
    x = images(16, seed=1)
    model = qat.prepare(Features(), (x[:1],), x)
    history = qat.train(model, data(), teacher=Features(), method=method(steps=60))
    assert sum(history.losses[-5:]) < 0.9 * sum(history.losses[:5])


def test_several_embeddings_learn_as_well() -> None:
    tower, x = Tower(lambda tokens: (tokens[:, 0], tokens.mean(1))), images(16, seed=1)
    model = qat.prepare(tower, (x[:1],), x)
    assert model.answers == ("embedding", "embedding")
    unseen = images(64, seed=11)

    def distance() -> float:
        with torch.no_grad():
            return float(losses(model.eval()(unseen), tower(unseen), model.answers).mean())

    before = distance()
    qat.train(model, data(200), teacher=tower, method=method(steps=120))
    assert distance() < 0.85 * before


def test_the_float_model_on_the_same_graph_answers_like_the_model() -> None:
    model, x = prepared(), images(4, seed=3)
    teacher = model.float_model()
    output, norms = teacher.outputs_and_norms(x)
    torch.testing.assert_close(output, plain_model()(x), rtol=1e-4, atol=1e-4)
    assert [norm.shape for norm in norms] == [norm.shape for norm in model.outputs_and_norms(x)[1]]
    assert not any(parameter.requires_grad for parameter in teacher.parameters()) and not teacher.training
    with pytest.raises(PackQViTError, match="made without its float graph"):
        qat.QatModel(model._prepared[0], model.example_inputs, model.config, model.ranges).float_model()


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_norms_are_learned_beside_the_answers(micro_batch: int | None) -> None:
    x, found = images(32, seed=5), {}
    for weight in (0.0, 30.0):
        model = prepared()
        teacher = model.float_model()
        chosen = method(steps=60, features=weight, micro_batch=micro_batch)
        history = qat.train(model, data(), teacher=teacher, method=chosen)
        assert sum(history.losses[-5:]) < sum(history.losses[:5])
        with torch.no_grad():
            found[weight] = float(feature_distance(model.outputs_and_norms(x)[1], teacher.outputs_and_norms(x)[1]))
    assert found[30.0] < 0.97 * found[0.0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps of the training is 0"),
        ("micro_batch", 5, "not a multiple of micro_batch 5"),
        ("distillation", "cosine", "distillation is 'cosine'"),
        ("label_weight", 1.5, "label_weight is 1.5"),
        ("label_weight", 1.0, "distillation 'soft' with a label_weight of 1.0"),
        ("label_smoothing", 1.0, "label_smoothing is 1.0"),
        ("outlier_weight", -1.0, "outlier_weight is -1.0"),
        ("features", -1.0, "features is -1.0"),
        ("clip", 0.0, "clip is 0.0"),
        ("seed", -1, "seed is -1"),
        ("ema", 1.0, "ema is 1.0"),
        ("smallest_crop", 0.0, "smallest_crop is 0.0"),
        ("unrounded", 1.1, "unrounded is 1.1"),
        ("mixup", -0.1, "mixup is -0.1"),
        ("cutmix", 2.0, "cutmix is 2.0"),
    ],
)
def test_methods_that_make_no_sense(field: str, value: Any, message: str) -> None:
    with pytest.raises(PackQViTError, match=message):
        method(**{field: value})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.full((16,), 10), "the data set has the label 10, the model has 10 classes, from 0 on"),
        (torch.full((16,), -1), "the data set has the label -1, the model has 10 classes"),
        (torch.zeros(16), r"the data set's labels are a tensor float32 \[8\], but must be whole numbers"),
        (torch.zeros(16, 3), r"labels are a tensor float32 \[8, 3\]"),
    ],
)
def test_labels_that_the_model_has_no_class_for(labels: torch.Tensor, words: str) -> None:
    dataset, chosen = TensorDataset(images(16), labels), method(distillation="none", label_weight=1.0)
    with pytest.raises(PackQViTError, match=words):
        qat.train(prepared(), dataset, method=chosen)


def test_mixtures_and_labels_do_not_go_together() -> None:
    with pytest.raises(PackQViTError, match="mixup and cutmix are for training without labels"):
        method(mixup=0.5, label_weight=0.5)


class Looks(nn.Module):
    """A teacher that keeps the images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.seen = plain_model(), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.model(x)


def test_the_teacher_sees_views_of_the_models_size_and_their_mixtures() -> None:
    large, shown = images(16, size=48), {}
    for name, changes in {"crops": {}, "mixup": {"mixup": 1.0}, "cutmix": {"cutmix": 1.0}}.items():
        teacher = Looks()
        qat.train(
            prepared(), TensorDataset(large), teacher=teacher, method=method(steps=2, smallest_crop=0.5, **changes)
        )
        shown[name] = teacher.seen
    assert all(x.shape == (8, 3, 32, 32) for seen in shown.values() for x in seen)
    for name in ("mixup", "cutmix"):
        assert not any(torch.equal(a, b) for a, b in zip(shown["crops"], shown[name], strict=True))


def test_tokens_stay_unrounded_for_a_while() -> None:
    left: list[float] = []

    class Watched(qat.QatModel):
        def leave_unrounded(self, share: float, generator: torch.Generator) -> None:
            left.append(share)
            super().leave_unrounded(share, generator)

    model = prepared()
    model.__class__ = Watched
    qat.train(model, data(), teacher=plain_model(), method=method(steps=8, unrounded=0.6))
    assert left == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.0])
    assert all(grid.unrounded == 0 for grid in model.grids.values() if isinstance(grid, LearnedAffine))
