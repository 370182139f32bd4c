"""Arguments of another kind are refused by name, with what came and what is expected, before any work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

import packqvit_delegate
from models import images, plain_model
from packqvit_delegate import (
    CalibrationMethod,
    LayerOverride,
    PackQViTError,
    PackQViTQuantizer,
    QuantizationConfig,
    TuningMethod,
    export,
    lower,
    qat,
    quantize,
    runtime,
    sensitivity,
    tuning,
)
from packqvit_delegate.arguments import check_fields, checked, shown
from packqvit_delegate.data import FolderDataset, ImageFolder, Preprocessing, open_image, read_class_names
from packqvit_delegate.models import ViTConfig, load

BATCH = images(2)
EXAMPLE = (BATCH[:1],)


def even(value: Any) -> str | None:
    return None if value == 2 else "must be 2"


@checked
def function(
    whole: int = 1,
    number: float = 1.0,
    flag: bool = False,
    text: str | None = None,
    path: str | Path = "",
    choice: Literal["a", "b"] = "a",
    module: nn.Module | None = None,
    tensors: tuple[torch.Tensor, ...] = (),
    pair: tuple[Sequence[float], Sequence[float]] | None = None,
    batches: Iterable[torch.Tensor | tuple[torch.Tensor, ...]] = (),
    table: Mapping[str, int] | None = None,
    progress: Callable[[int], int] | None = None,
    ruled: Annotated[int, even] = 2,
) -> int:
    """A docstring."""
    return whole


@pytest.mark.parametrize(
    "given",
    [
        {"whole": np.int64(3), "number": 2, "flag": np.bool_(True)},
        {"number": np.float32(0.5), "text": "x", "path": Path("x"), "choice": "b"},
        {"module": nn.Linear(2, 2), "tensors": [BATCH, BATCH], "pair": [(0.5,), np.array([0.5])]},
        {"pair": (torch.tensor([0.5]), [1]), "batches": iter(["not looked at"]), "table": {"a": 1}},
        {"batches": BATCH, "progress": len},
        {"batches": [BATCH, (BATCH, BATCH)]},
    ],
)
def test_what_fits_passes(given: dict[str, Any]) -> None:
    assert function(**given) == given.get("whole", 1)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("whole", 2.5, "whole is 2.5, but must be a whole number"),
        ("whole", True, "whole is True, but must be a whole number"),
        ("whole", "4", "whole is '4', but must be a whole number"),
        ("whole", None, "whole is None, but must be a whole number"),
        ("number", float("nan"), "number is nan, but must be a finite number"),
        ("number", float("inf"), "number is inf, but must be a finite number"),
        ("number", True, "number is True"),
        ("flag", 1, "flag is 1, but must be True or False"),
        ("text", 5, "text is 5, but must be a text or None"),
        ("path", b"x", "path is b'x', but must be a text or a path"),
        ("choice", "c", "choice is 'c', but must be 'a' or 'b'"),
        ("module", nn.Linear, r"module is the class Linear, .*: give an object of it, Linear\(\.\.\.\)"),
        (
            "module",
            "vit.pt",
            r"module is 'vit.pt', but must be a torch.nn.Module or None; .*models.load",
        ),
        ("tensors", BATCH, r"tensors is a tensor float32 \[2, 3, 32, 32\], but must be a tuple of tensors"),
        ("tensors", (BATCH, None), r"tensors\[1\] is None, but must be a tensor"),
        ("pair", (0.5, 0.5), r"pair\[0\] is 0.5, but must be a list of finite numbers"),
        ("pair", ((0.5,), (float("inf"),)), r"pair\[1\]\[0\] is inf, but must be a finite number"),
        ("pair", ((0.5,), torch.tensor([torch.nan])), r"pair\[1\]\[0\] is nan"),
        ("pair", (1, 2, 3), r"pair is a tuple of 3 \(int\), but must be \(a list"),
        ("batches", "photos", "batches is 'photos', but must be a list of tensors or tuples of tensors; .*ImageFolder"),
        ("batches", Path("photos"), "batches is the path 'photos'"),
        ("batches", None, "batches is None"),
        ("batches", [BATCH, {"pixel_values": BATCH}], r"batches\[1\] is a dict with the keys 'pixel_values'"),
        ("batches", [np.zeros((2, 3))], r"batches\[0\] is a numpy array float64 \[2, 3\]"),
        ("table", {"a": 0.5}, r"table\['a'\] is 0.5, but must be a whole number"),
        ("table", [1], "table is a list of 1"),
        ("progress", 3, "progress is 3, but must be a function or None"),
        ("ruled", 3, "ruled is 3, but must be 2"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(PackQViTError, match=f"^{message}"):
        function(**{name: value})


def test_a_checked_function_is_what_it_was() -> None:
    assert function.__doc__ == "A docstring." and "whole" in inspect.signature(function).parameters
    with pytest.raises(TypeError, match="unknown"):
        function(unknown=1)  # type: ignore[call-arg]


def test_fields_are_checked_alike() -> None:
    @dataclass
    class Fields:
        steps: int = 1

        def __post_init__(self) -> None:
            check_fields(self)

    Fields.__annotations__["steps"] = int
    with pytest.raises(PackQViTError, match="steps is 1.5, but must be a whole number"):
        Fields(steps=1.5)  # type: ignore[arg-type]


def test_large_values_are_shown_in_a_few_words() -> None:
    assert len(shown("x" * 10**6)) < 120 and len(shown(list(range(10**5)))) < 120
    assert shown(b"") == "b''" and shown([]) == "an empty list" and shown({}) == "an empty dict"
    assert shown(len) == "the function len" and shown(plain_model).startswith("the function")


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("work was begun")


CONFIG = QuantizationConfig.preset("w8a8")

CALLS: list[tuple[str, Callable[[], Any]]] = [
    ("model is 'model.pt'", lambda: export("model.pt", EXAMPLE, BATCH)),
    ("model is the class", lambda: export(type(plain_model()), EXAMPLE, BATCH)),
    ("model is None", lambda: qat.prepare(None, EXAMPLE, BATCH)),
    ("model is an OrderedDict", lambda: sensitivity.analyze(plain_model().state_dict(), EXAMPLE, BATCH)),
    ("example_inputs is an empty tuple", lambda: export(plain_model(), (), BATCH)),
    ("example_inputs is a tensor", lambda: export(plain_model(), BATCH, BATCH)),
    ("example_inputs is a list", lambda: export(plain_model(), [BATCH], BATCH)),
    (r"example_inputs\[0\] is .*\[0, 3", lambda: export(plain_model(), (BATCH[:0],), BATCH)),
    (r"example_inputs\[0\] is .*\[\]", lambda: export(plain_model(), (torch.tensor(1.0),), BATCH)),
    (r"example_inputs\[0\] is 'x'", lambda: qat.prepare(plain_model(), ("x",), BATCH)),
    ("calibration is None", lambda: export(plain_model(), EXAMPLE, None)),
    ("calibration is 'photos'", lambda: quantize(plain_model(), EXAMPLE, "photos", CONFIG)),
    (r"calibration\[0\] is a dict", lambda: export(plain_model(), EXAMPLE, [{"x": BATCH}])),
    (r"calibration\[0\] is a dict", lambda: export(plain_model(), EXAMPLE, iter([{"x": BATCH}]))),
    (r"calibration\[0\] is a text|'a'", lambda: export(plain_model(), EXAMPLE, ["a", "b"])),
    ("leave the labels away", lambda: export(plain_model(), EXAMPLE, [(BATCH, torch.zeros(2))])),
    ("an iterator is empty after its first use", lambda: export(plain_model(), EXAMPLE, iter(()))),
    ("a few dozen images", lambda: export(plain_model(), EXAMPLE, [])),
    (r"calibration\[0\] is a tensor uint8", lambda: export(plain_model(), EXAMPLE, BATCH.to(torch.uint8))),
    ("failed to give a batch: OSError: gone", lambda: export(plain_model(), EXAMPLE, failing())),
    ("config is 'w8a8', .*preset", lambda: export(plain_model(), EXAMPLE, BATCH, config="w8a8")),
    ("config is a dict", lambda: quantize(plain_model(), EXAMPLE, BATCH, {"bits": 8})),
    ("method is 'gptq', .*CalibrationMethod", lambda: export(plain_model(), EXAMPLE, BATCH, method="gptq")),
    ("tuning is True, .*TuningMethod", lambda: export(plain_model(), EXAMPLE, BATCH, tuning=True)),
    ("bits is '4', but only 4 and 8", lambda: export(plain_model(), EXAMPLE, BATCH, bits="4")),
    ("bits is True, but only 4 and 8", lambda: export(plain_model(), EXAMPLE, BATCH, bits=True)),
    ("top_k is 2.5", lambda: export(plain_model(), EXAMPLE, BATCH, top_k=2.5)),
    ("top_k is True", lambda: export(plain_model(), EXAMPLE, BATCH, top_k=True)),
    (r"input_normalization\[0\] is 0.5", lambda: export(plain_model(), EXAMPLE, BATCH, input_normalization=(0.5, 0.5))),
    (
        r"input_normalization\[1\]\[0\] is inf",
        lambda: export(plain_model(), EXAMPLE, BATCH, input_normalization=((0.5,), (float("inf"),))),
    ),
    ("positive std", lambda: export(plain_model(), EXAMPLE, BATCH, input_normalization=((0.5,), (0.0,)))),
    ("byte_input is 3", lambda: export(plain_model(), EXAMPLE, BATCH, byte_input=3)),
    ("progress is 'bar'", lambda: export(plain_model(), EXAMPLE, BATCH, progress="bar")),
    ("integer_module is None", lambda: lower(None, EXAMPLE)),
    ("bits is '8'", lambda: PackQViTQuantizer(bits="8")),
    ("config is 'w4a4'", lambda: PackQViTQuantizer(config="w4a4")),
    ("is_qat is 1", lambda: PackQViTQuantizer(is_qat=1)),
    ("name is 8", lambda: QuantizationConfig.preset(8)),
    ("bits is '4'", lambda: QuantizationConfig.from_bits("4")),
    ("weight_bits is None", lambda: QuantizationConfig(weight_bits=None)),
    ("activation_levels is 16.5", lambda: QuantizationConfig(activation_levels=16.5)),
    (r"overrides\['fc2'\] is 8, .*LayerOverride", lambda: QuantizationConfig(overrides={"fc2": 8})),
    ("overrides is a list", lambda: QuantizationConfig(overrides=["fc2"])),
    ("weight_bits is '8'", lambda: LayerOverride(weight_bits="8")),
    ("rounding is None", lambda: CalibrationMethod(rounding=None)),
    ("clipping is 'no'", lambda: CalibrationMethod(clipping="no")),
    ("damping is nan", lambda: CalibrationMethod(damping=float("nan"))),
    ("steps is 1.5", lambda: TuningMethod(steps=1.5)),
    ("rates is 0.1, .*LearningRates", lambda: TuningMethod(rates=0.1)),
    ("held_out is nan", lambda: TuningMethod(held_out=float("nan"))),
    ("batch is '32'", lambda: qat.TrainingMethod(batch="32")),
    ("rates is 0.1", lambda: qat.TrainingMethod(rates=0.1)),
    ("model is .*, but must be a QatModel", lambda: qat.train(plain_model(), BATCH)),
    ("model is .*, but must be a QatModel", lambda: qat.export(plain_model())),
    ("history is a list", lambda: qat.plot([1.0], "curves.png")),
    ("prepared is None", lambda: tuning.tune(None, None, BATCH)),
    ("extra_bytes is '15'", lambda: sensitivity.Limits(extra_bytes="15")),
    ("pair is None", lambda: sensitivity.suggest_for(None, BATCH)),
    ("report is 3", lambda: sensitivity.block_table(3)),
    ("program is None", lambda: runtime.load(None)),
    ("name is None", lambda: load(None)),
    ("weights is 3", lambda: load("vit_tiny", 3)),
    ("dim is 192.0", lambda: ViTConfig(dim=192.0)),
    ("depth is 0, but must be at least 1", lambda: ViTConfig(depth=0)),
    ("root is None", lambda: ImageFolder.open(None)),
    (r"mean is 0.5, but must be a list of finite numbers", lambda: Preprocessing(mean=0.5)),
    (r"std\[1\] is nan", lambda: Preprocessing(std=(1.0, float("nan"), 1.0))),
    ("size is '224'", lambda: Preprocessing(size="224")),
    ("image is a tensor", lambda: Preprocessing().pixels(BATCH)),
    ("folder is 'photos'", lambda: FolderDataset("photos", Preprocessing())),
    ("path is 3", lambda: open_image(3)),
    ("path is None", lambda: read_class_names(None)),
]


def failing() -> Any:
    raise OSError("gone")
    yield


@pytest.mark.parametrize("call", CALLS, ids=[f"{i}-{message[:24]}" for i, (message, _) in enumerate(CALLS)])
def test_public_functions_refuse(call: tuple[str, Callable[[], Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packqvit_delegate.preparation.capture", never)
    message, function = call
    with pytest.raises(PackQViTError, match=message):
        function()


def test_every_public_function_is_checked() -> None:
    modules = (packqvit_delegate, qat, sensitivity, tuning, runtime, packqvit_delegate.data, packqvit_delegate.models)
    unchecked = [
        f"{module.__name__}.{name}"
        for module in modules
        for name in module.__all__
        if inspect.isfunction(function := getattr(module, name))
        and inspect.signature(function).parameters
        and not hasattr(function, "__wrapped__")
    ]
    assert unchecked == []


def test_a_program_is_not_saved_into_nowhere(tmp_path: Path) -> None:
    program = object.__new__(packqvit_delegate.Program)
    for path, message in (
        (tmp_path / "gone" / "m.pte", "there is no folder"),
        (tmp_path, "is a folder"),
        (3, "path is 3"),
    ):
        with pytest.raises(PackQViTError, match=message):
            program.save(path)  # type: ignore[arg-type]
