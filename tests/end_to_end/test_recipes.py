"""`executorch.export` with our recipes gives the programs of `packqvit_delegate.export`."""

from __future__ import annotations

import pytest
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.export import ExportRecipe, recipe_registry
from executorch.export import export as export_session

import packqvit_delegate
from models import images, plain_model
from packqvit_delegate import runtime
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.recipes import RECIPE_BACKEND, PackQViTRecipeType

MODEL = plain_model()
BATCH = images(4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(PackQViTRecipeType), ids=lambda kind: kind.value)
def test_the_program_is_that_of_export(kind: PackQViTRecipeType) -> None:
    recipe = ExportRecipe.get_recipe(kind, calibration=[BATCH], input_normalization=((0.5,) * 3, (0.25,) * 3))
    found = export_session(MODEL, [(BATCH[:1],)], recipe).get_pte_buffer()
    config = packqvit_delegate.QuantizationConfig.preset(kind.value)
    expected = packqvit_delegate.export(
        MODEL, (BATCH[:1],), [BATCH], config=config, input_normalization=((0.5,) * 3, (0.25,) * 3)
    )
    assert found == expected.buffer


def test_other_arguments_arrive() -> None:
    method = packqvit_delegate.CalibrationMethod(rounding="nearest", compensation=False)
    recipe = ExportRecipe.get_recipe(
        PackQViTRecipeType.W8A8, calibration=BATCH, method=method, partitioners=[XnnpackPartitioner()]
    )
    found = export_session(MODEL, [(BATCH[:1],)], recipe).get_pte_buffer()
    expected = packqvit_delegate.export(
        MODEL, (BATCH[:1],), [BATCH], bits=8, method=method, partitioners=[XnnpackPartitioner()]
    )
    assert found == expected.buffer


def test_two_methods_are_calibrated_one_after_the_other() -> None:
    recipe = ExportRecipe.get_recipe(PackQViTRecipeType.W8A8, calibration=[BATCH])
    inputs = {"one": [(BATCH[:1],)], "two": [(BATCH[:2],)]}
    program = export_session({"one": MODEL, "two": MODEL}, inputs, recipe).get_pte_buffer()
    for images_at_once, name in enumerate(inputs, start=1):
        expected = packqvit_delegate.export(MODEL, (BATCH[:images_at_once],), [BATCH], bits=8)
        found = runtime.load(program, method=name).run(BATCH[:images_at_once])[0]
        assert torch.equal(found, expected.integer_module(BATCH[:images_at_once]))


def test_the_provider_is_registered() -> None:
    assert RECIPE_BACKEND in recipe_registry.list_backends()
    assert set(recipe_registry.get_supported_recipes(RECIPE_BACKEND)) == set(PackQViTRecipeType)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs calibration"),
        ({"calibration": [BATCH], "bits": 4}, "has no bits; it takes calibration, config"),
        ({"calibration": [BATCH], "config": 8}, "config is 8"),
        ({"calibration": "photos"}, "calibration"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(PackQViTError, match=words):
        ExportRecipe.get_recipe(PackQViTRecipeType.W4A4, **arguments)


def test_an_unsupported_model_says_why() -> None:
    recipe = ExportRecipe.get_recipe(PackQViTRecipeType.W8A8, calibration=[BATCH])
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
    model(BATCH[:1])
    with pytest.raises(RuntimeError, match="no Vision Transformer to run in integers") as raised:
        export_session(model, [(BATCH[:1],)], recipe)
    assert isinstance(raised.value.__cause__, PackQViTError)
