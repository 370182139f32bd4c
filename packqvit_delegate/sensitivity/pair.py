"""The two graphs that are compared: the float one, and the calibrated one that was made from it."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from ..api import Batches, calibrated, float_graph
from ..calibration import CalibrationMethod
from ..config import QuantizationConfig
from ..passes import lower_to_integer
from ..progress import Progress


@dataclasses.dataclass
class Pair:
    """A float graph and what calibration made of it; nodes of one kind have the same name in both.

    Attributes:
        reference: Canonical float graph, the same function as the model.
        prepared: With observers whose grids are decided, and with rounded weights.
    """

    reference: GraphModule
    prepared: GraphModule

    def to_integer(self) -> GraphModule:
        """The integer graph; `prepared` becomes part of it and cannot be used afterwards."""
        return lower_to_integer(convert_pt2e(self.prepared))


def make_pair(
    model: nn.Module,
    example_inputs: tuple[torch.Tensor, ...],
    batches: Batches,
    config: QuantizationConfig,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
) -> Pair:
    """Calibrates a model and keeps the float graph beside it.

    Args:
        model: As for `packqvit_delegate.export`.
        example_inputs: As for `export`.
        batches: Calibration data.
        config: All choices.
        method: As for `export`.
        progress: As for `export`.

    Raises:
        PackQViTError: As `export`.
    """
    module = float_graph(model, example_inputs, batches, config, method, progress)
    reference = copy.deepcopy(module)
    return Pair(reference, calibrated(module, batches, config, method, progress))
