"""Small calibrated models."""

from __future__ import annotations

from torch import Tensor
from torch.fx import GraphModule

from models import images, plain_model
from packqvit_delegate.calibration.batches import Batches
from packqvit_delegate.config import QuantizationConfig
from packqvit_delegate.preparation import make_pair


def calibrated_model(batch_size: int = 1, x: Tensor | None = None, **config: object) -> tuple[GraphModule, GraphModule]:
    """The float graph of a micro Vision Transformer and what calibration made of it."""
    x = images(16, seed=1) if x is None else x
    chosen = QuantizationConfig(**config)  # type: ignore[arg-type]
    example = (x[:batch_size],)
    pair = make_pair(plain_model(), example, Batches(x, example), chosen)
    return pair.reference, pair.prepared
