"""Small calibrated models."""

from __future__ import annotations

import copy

from torch import Tensor
from torch.fx import GraphModule

from models import images, plain_model
from packqvit_delegate.api import Batches, calibrated, float_graph
from packqvit_delegate.config import QuantizationConfig


def calibrated_model(batch_size: int = 1, x: Tensor | None = None, **config: object) -> tuple[GraphModule, GraphModule]:
    """The float graph of a micro Vision Transformer and what calibration made of it."""
    x = images(16, seed=1) if x is None else x
    chosen = QuantizationConfig(**config)  # type: ignore[arg-type]
    example = (x[:batch_size],)
    batches = Batches(x, example)
    module = float_graph(plain_model(), example, batches, chosen)
    return copy.deepcopy(module), calibrated(module, batches, chosen)
