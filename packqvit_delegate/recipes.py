"""Recipes for `executorch.export`, ExecuTorch's own export session; importing this registers them.

    from executorch.export import ExportRecipe, export
    from packqvit_delegate.recipes import PackQViTRecipeType

    recipe = ExportRecipe.get_recipe(PackQViTRecipeType.W8A8, calibration=batches)
    export(model, [(image,)], recipe).save_to_pte("model.pte")

The program is that of `packqvit_delegate.export`, to the byte. A session quantises an nn.Module only, captured in
strict mode. Where a step of it fails it raises RuntimeError; our error is the cause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from executorch.exir.backend.partitioner import Partitioner
from executorch.export import (
    BackendRecipeProvider,
    ExportRecipe,
    LoweringRecipe,
    QuantizationRecipe,
    RecipeType,
    recipe_registry,
)
from torch.fx import GraphModule

from .arguments import checked
from .calibration import CalibrationMethod, calibrate
from .calibration.batches import Batch, Batches
from .config import QuantizationConfig
from .errors import PackQViTError
from .memory import executorch_config
from .partitioner import PackQViTPartitioner
from .passes import lower_to_integer
from .preparation import float_graph
from .progress import Progress
from .quantizer import PackQViTQuantizer

RECIPE_BACKEND = "packqvit"


class PackQViTRecipeType(RecipeType):
    """What `ExportRecipe.get_recipe` takes: the presets of QuantizationConfig.

    Further arguments of `get_recipe` are those of `PackQViTRecipeProvider.create_recipe`.
    """

    W8A8 = "w8a8"
    W4A8 = "w4a8"
    W4A4 = "w4a4"

    @classmethod
    def get_backend_name(cls) -> str:
        """The name under which the provider is registered."""
        return RECIPE_BACKEND


class _Flow:
    """Our calibration as passes of a session's quantisation stage, for one method of the program after the other."""

    def __init__(
        self,
        calibration: list[Batch],
        config: QuantizationConfig,
        method: CalibrationMethod | None,
        has_fallback: bool,
        progress: Progress | None,
    ) -> None:
        self._calibration = calibration
        self._config = config
        self._method = method
        self._has_fallback = has_fallback
        self._progress = progress
        self._batches: Batches | None = None

    def before_prepare(self, captured: GraphModule) -> GraphModule:
        """The canonical graph of the captured model, the same function."""
        inputs = _example_inputs(captured)
        self._batches = Batches(self._calibration, inputs)
        return float_graph(captured, inputs, self._batches, self._config, self._method, self._progress)

    def after_prepare(self, prepared: GraphModule) -> GraphModule:
        """Decides the grids of the observers and rounds the weights."""
        assert self._batches is not None
        calibrate(prepared, self._batches.chunks(), self._batches.size, self._method, self._progress)
        self._batches = None
        return prepared

    def after_convert(self, converted: GraphModule) -> GraphModule:
        """The integer graph."""
        return lower_to_integer(converted, has_fallback=self._has_fallback)


def _example_inputs(captured: GraphModule) -> tuple[torch.Tensor, ...]:
    """Zeros of the shapes that a graph was captured for."""
    values = [node.meta["val"] for node in captured.graph.nodes if node.op == "placeholder"]
    return tuple(torch.zeros(value.shape, dtype=value.dtype) for value in values)


class PackQViTRecipeProvider(BackendRecipeProvider):
    """Makes the recipes of PackQViTRecipeType."""

    @property
    def backend_name(self) -> str:
        """The name under which this is registered."""
        return RECIPE_BACKEND

    def get_supported_recipes(self) -> Sequence[RecipeType]:
        """All of PackQViTRecipeType."""
        return list(PackQViTRecipeType)

    def create_recipe(self, recipe_type: RecipeType, **kwargs: Any) -> ExportRecipe | None:
        """A recipe: quantise by calibration, lower to integers, hand to the delegate.

        Args:
            recipe_type: One of PackQViTRecipeType.
            **kwargs: `calibration`, which has to be given, `config` in the place of the preset, `method`,
                `input_normalization`, `partitioners` and `progress`: as for `packqvit_delegate.export`.

        Returns:
            None for a recipe of another backend.

        Raises:
            PackQViTError: An argument is missing, unknown or wrong.
        """
        if not isinstance(recipe_type, PackQViTRecipeType):
            return None
        known = {"calibration", "config", "method", "input_normalization", "partitioners", "progress"}
        if unknown := kwargs.keys() - known:
            raise PackQViTError(f"a recipe has no {', '.join(sorted(unknown))}; it takes {', '.join(sorted(known))}")
        if "calibration" not in kwargs:
            raise PackQViTError(
                "a recipe needs calibration=batches of inputs, like those of the application; example inputs are not "
                "enough to choose grids from"
            )
        return _recipe(recipe_type, **kwargs)


@checked
def _recipe(
    recipe_type: PackQViTRecipeType,
    calibration: Iterable[Batch],
    *,
    config: QuantizationConfig | None = None,
    method: CalibrationMethod | None = None,
    input_normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    partitioners: Sequence[Partitioner] = (),
    progress: Progress | None = None,
) -> ExportRecipe:
    config = config or QuantizationConfig.preset(recipe_type.value)
    if input_normalization is not None:
        mean, std = (tuple(float(v) for v in values) for values in input_normalization)
        config = dataclasses.replace(config, input_normalization=(mean, std))
    batches: list[Batch] = [calibration] if isinstance(calibration, torch.Tensor) else list(calibration)
    flow = _Flow(batches, config, method, bool(partitioners), progress)
    return ExportRecipe(
        name=recipe_type.value,
        quantization_recipe=QuantizationRecipe(
            quantizers=[PackQViTQuantizer(config=config)],
            calibration_inputs_fn=tuple,  # nothing more to run: `after_prepare` has run the images
            pre_prepare_passes=[flow.before_prepare],
            post_prepare_passes=[flow.after_prepare],
            post_convert_passes=[flow.after_convert],
        ),
        lowering_recipe=LoweringRecipe(partitioners=[PackQViTPartitioner(partitioners), *partitioners]),
        executorch_backend_config=executorch_config(partitioners),
        strict=False,
    )


recipe_registry.register_backend_recipe_provider(PackQViTRecipeProvider())
