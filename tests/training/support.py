"""Small calibrated models."""

from __future__ import annotations

import copy
import functools

from torch import Tensor
from torch.fx import GraphModule

from models import images, plain_model
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.config import QuantizationConfig
from packqvit_delegate.preparation import make_pair


def calibrated_model(batch_size: int = 1, x: Tensor | None = None, **config: object) -> tuple[GraphModule, GraphModule]:
    """The float graph of a micro Vision Transformer and what calibration made of it."""
    reference, prepared = _calibrated_once(batch_size, **config) if x is None else _calibrated(batch_size, x, **config)
    return copy.deepcopy(reference), copy.deepcopy(prepared)


@functools.cache
def _calibrated_once(batch_size: int, **config: object) -> tuple[GraphModule, GraphModule]:
    return _calibrated(batch_size, images(16, seed=1), **config)


def _calibrated(batch_size: int, x: Tensor, **config: object) -> tuple[GraphModule, GraphModule]:
    chosen = QuantizationConfig(**config)  # type: ignore[arg-type]
    example = (x[:batch_size],)
    pair = make_pair(plain_model(), example, Batches(x, example), chosen)
    return pair.reference, pair.prepared
