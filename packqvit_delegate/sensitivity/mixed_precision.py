"""A mix of 4-bit and 8-bit layers as a small file, and its suggestion for a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..answers import answers_of
from ..arguments import check_fields, checked
from ..calibration import CalibrationMethod
from ..calibration.batches import Batch, Batches
from ..config import INNER_PRODUCT_LEVELS, LayerOverride, QuantizationConfig
from ..entry import FloatModel
from ..errors import PackQViTError
from ..files import replacing
from ..preparation import Pair, make_pair
from ..progress import Progress
from .search import Budget, select
from .simulation import Simulation
from .widths import Choice, Size, choices, size_of

_UNITS = {"classes": "nats", "embedding": "of the embeddings' variance"}
_FORMAT = 1
_FORMAT_KEY = "packqvit_mixed_precision"
SEARCH_IMAGES = 64
"""The search takes as many of the calibration images when it is given none of its own."""


@dataclasses.dataclass(frozen=True)
class MixedPrecision:
    """Layers with other widths than the rest.

    Attributes:
        overrides: As QuantizationConfig's.
        facts: What the search says about them, for people to read: costs and losses. Applying does not read it.
    """

    overrides: Mapping[str, LayerOverride]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks both."""
        check_fields(self)

    @checked
    def apply(self, config: QuantizationConfig) -> QuantizationConfig:
        """The configuration with these widths on top of its own."""
        return dataclasses.replace(
            config,
            overrides={**config.overrides, **self.overrides},
            activation_levels=min(config.activation_levels, INNER_PRODUCT_LEVELS),
        )

    @checked
    def save(self, path: str | Path) -> None:
        """Writes the mix as JSON.

        Raises:
            PackQViTError: The file cannot be written.
        """
        layers = {
            name: {field: bits for field, bits in dataclasses.asdict(override).items() if bits is not None}
            for name, override in self.overrides.items()
        }
        content = {_FORMAT_KEY: _FORMAT, "overrides": layers, "facts": dict(self.facts)}
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @classmethod
    @checked
    def load(cls, path: str | Path) -> MixedPrecision:
        """Reads what `save` wrote.

        Raises:
            PackQViTError: There is no such file, or it is not a mix; the message says where.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PackQViTError(f"cannot read the mixed precision {path}: {error.strerror}") from error
        except ValueError as error:
            raise PackQViTError(f"{path} is not a JSON file: {error}") from error
        if not isinstance(content, dict) or content.get(_FORMAT_KEY) != _FORMAT:
            raise PackQViTError(f'{path} is not a mixed precision: it has to hold "{_FORMAT_KEY}": {_FORMAT}')
        layers = content.get("overrides")
        if not isinstance(layers, dict):
            raise PackQViTError(f'{path} has no "overrides": an object of layer names and their widths')
        return cls({name: _override(path, name, value) for name, value in layers.items()}, content.get("facts", {}))


def _override(path: str | Path, name: str, value: object) -> LayerOverride:
    fields = {field.name for field in dataclasses.fields(LayerOverride)}
    if not isinstance(value, dict) or not value or not set(value) <= fields:
        raise PackQViTError(f"{path}, layer {name!r}: expected an object with {' or '.join(sorted(fields))}")
    try:
        return LayerOverride(**value)
    except PackQViTError as error:
        raise PackQViTError(f"{path}, layer {name!r}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a suggestion may cost.

    Attributes:
        extra_bytes: By which share all weights together may grow; the program grows by less.
        wide_macs: Which share of the multiply-accumulates of the blocks' linear layers may move from 4-bit to 8-bit
            activations. They cost no bytes, but time on CPUs where 4-bit products are faster (docs/benchmarks.md).

    Raises:
        PackQViTError: A value is outside 0..1.
    """

    extra_bytes: float = 0.15
    wide_macs: float = 0.25

    def __post_init__(self) -> None:
        """Checks both."""
        check_fields(self)
        for field in ("extra_bytes", "wide_macs"):
            if not 0 <= getattr(self, field) <= 1:
                raise PackQViTError(f"{field} is {getattr(self, field)}, but has to be a share between 0 and 1")


@checked
def suggest(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    config: QuantizationConfig | None = None,
    *,
    limits: Limits | None = None,
    images: Iterable[Batch] | None = None,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
) -> MixedPrecision:
    """Finds the layers for which 8 bits help most, within limits.

    Args:
        model: As for `packqvit_delegate.export`.
        example_inputs: As for `export`.
        calibration: As for `export`; run over more than once.
        config: What the layers are mixed into; None: W4A4.
        limits: What the mix may cost; None: Limits().
        images: Inputs that losses are measured on; None: the first SEARCH_IMAGES of `calibration`.
        method: As for `export`.
        progress: As for `export`.

    Returns:
        The mix: export(..., config=mix.apply(config)). The same images give the same mix.

    Raises:
        PackQViTError: As `export`, or there is nothing with 4 bits in the configuration.
    """
    config = config or QuantizationConfig.preset("w4a4")
    batches = Batches(calibration, example_inputs)
    pair = make_pair(model, example_inputs, batches, config, method, progress)
    searched = batches.first(SEARCH_IMAGES) if images is None else Batches(images, example_inputs)
    return suggest_for(pair, searched, limits, progress)


@checked
def suggest_for(
    pair: Pair,
    images: Batches,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> MixedPrecision:
    """As `suggest`, for a model that is calibrated already.

    Args:
        pair: Float and calibrated graph; they are not changed.
        images: Inputs that losses are measured on.
        limits: What the mix may cost; None: Limits().
        progress: Wraps the loops.

    Raises:
        PackQViTError: No layer has 4 bits.
    """
    limits = limits or Limits()
    each = choices(pair.reference, pair.prepared)
    if not each:
        raise PackQViTError("no layer has 4 bits, so there is none to be given 8; start from W4A4 or W4A8")
    size = size_of(pair.reference, pair.prepared)
    budget = Budget(int(limits.extra_bytes * size.weight_bytes), int(limits.wide_macs * size.macs))
    simulation = Simulation(pair.reference, pair.prepared, images)
    alone = simulation.losses_alone([choice for choice in each if budget.allows(choice)], progress)
    chosen = select(alone, budget)
    overrides: dict[str, LayerOverride] = {}
    for choice in chosen:
        name, override = choice.override
        before = overrides.get(name, LayerOverride())
        overrides[name] = LayerOverride(
            before.weight_bits or override.weight_bits, before.activation_bits or override.activation_bits
        )
    unit = " + ".join(dict.fromkeys(_UNITS[kind] for kind in answers_of(pair.reference)))
    losses = {"before": round(simulation.loss(), 4), "after": round(simulation.loss(chosen), 4), "unit": unit}
    return MixedPrecision(overrides, {**_costs(size, limits, chosen), "loss": losses, "layers": _layers(chosen, alone)})


def _costs(size: Size, limits: Limits, chosen: list[Choice]) -> dict[str, Any]:
    extra, wide = sum(choice.extra_bytes for choice in chosen), sum(choice.macs for choice in chosen)
    return {
        "limits": dataclasses.asdict(limits),
        "weight_bytes": {"before": size.weight_bytes, "after": size.weight_bytes + extra},
        "macs_of_linear_layers": size.macs,
        "macs_at_8_bit_activations": {"before": size.wide_macs, "after": size.wide_macs + wide},
    }


def _layers(chosen: list[Choice], alone: Mapping[Choice, float]) -> list[dict[str, Any]]:
    return [
        {
            "layer": choice.layer,
            "field": choice.field,
            "extra_bytes": choice.extra_bytes,
            "macs": choice.macs,
            "loss_alone": round(alone[choice], 4),
        }
        for choice in chosen
    ]
