"""From a float model to one that trains on the integer grids, and from that to its program."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

from ..api import ByteLayout, Program, check_ends, finish, normalized
from ..arguments import checked
from ..calibration import CalibrationMethod
from ..calibration.batches import Batch, Batches
from ..config import QuantizationConfig
from ..entry import FloatModel
from ..errors import PackQViTError
from ..inputs import plain
from ..metadata import Metadata
from ..methods import method_names
from ..passes import lower_to_integer
from ..preparation import make_pair
from ..progress import Progress
from ..release import released
from ..training import TrainableModel

_RANGE_IMAGES = 128
"""Images over which the ranges of an int16 residual are taken again after training."""


class QatModel(TrainableModel):
    """A TrainableModel that knows what `convert` and `export` need.

    Attributes:
        config: Widths and grids.
        example_inputs: Fix the shapes of the program.
    """

    def __init__(
        self,
        prepared: GraphModule,
        example_inputs: tuple[torch.Tensor, ...],
        config: QuantizationConfig,
        ranges: list[tuple[torch.Tensor, ...]],
        integer_functions: bool = True,
        float_module: GraphModule | None = None,
    ) -> None:
        """Takes over a calibrated graph.

        Args:
            prepared: As TrainableModel's.
            example_inputs: As for `packqvit_delegate.export`.
            config: What it was calibrated with.
            ranges: Batches of inputs over which the ranges of an int16 residual are taken again after training.
            integer_functions: As TrainableModel's.
            float_module: The graph that it was prepared from, for `float_model`.
        """
        super().__init__(prepared, example_inputs[0].shape[0], integer_functions)
        self.config, self.example_inputs = config, example_inputs
        self.ranges = ranges
        self._float_module = [] if float_module is None else [float_module]  # hidden from nn.Module, as it is no part

    def float_model(self) -> TrainableModel:
        """The float model on the graph that this one was made from: a teacher that also gives LayerNorms' outputs.

        It answers like the model given to `prepare`. Its LayerNorms are those of this model, which passes have scaled,
        so that their outputs compare.

        Raises:
            PackQViTError: This model was made without it.
        """
        if not self._float_module:
            raise PackQViTError("this QatModel was made without its float graph; make it with qat.prepare")
        return TrainableModel(self._float_module[0], self.example_inputs[0].shape[0]).requires_grad_(False).eval()


@checked
def prepare(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    config: QuantizationConfig | None = None,
    *,
    method: CalibrationMethod | None = None,
    integer_functions: bool = True,
    progress: Progress | None = None,
) -> QatModel:
    """Calibrates a float model and makes it trainable.

    Calibration is what `packqvit_delegate.export` does, so that training starts where post-training quantisation ends.
    For an int8 residual it also chooses outlier channels and their shifts, which training then leaves alone.

    Args:
        model: As for `export`; it stays as it is, and can be the teacher.
        example_inputs: As for `export`.
        calibration: As for `export`.
        config: All choices; None: the preset `w4a4`.
        method: As for `export`, but channels are rotated only where it says so (docs/training.md).
        integer_functions: Whether its values are those of the integer operators, bit for bit, or those of float
            arithmetic rounded to the same grids, in about half the time (training/model.py). May be set later.
        progress: As for `export`.

    Raises:
        PackQViTError: As `export`.
    """
    config = config or QuantizationConfig()
    batches = Batches(calibration, example_inputs)
    method = method or CalibrationMethod()
    if method.rotation is None:
        method = dataclasses.replace(method, rotation=False)
    with released(model):
        pair = make_pair(model, example_inputs, batches, config, method, progress)
        ranges = batches.first(_RANGE_IMAGES).chunks()
        return QatModel(pair.prepared, plain(example_inputs), config, ranges, integer_functions, pair.reference)


@checked
def convert(model: QatModel) -> GraphModule:
    """The eager integer graph of what was trained; the model can be trained on afterwards.

    Args:
        model: Of `prepare`; on any device. The ranges of its int16 residual are taken again.

    Raises:
        PackQViTError: A parameter is not finite, or a constant cannot be expressed in integers.
    """
    with released(model):
        return lower_to_integer(convert_pt2e(copy.deepcopy(model.commit(model.ranges))))


@checked
def export(
    model: QatModel,
    *,
    byte_input: ByteLayout | None = None,
    top_k: int | None = None,
    metadata: Metadata | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> Program:
    """The program of what was trained.

    Args:
        model: Of `prepare`.
        byte_input: As for `packqvit_delegate.export`.
        top_k: As for `packqvit_delegate.export`.
        metadata: As for `packqvit_delegate.export`; its normalisation has to be the one of `prepare`'s configuration.
        batch_sizes: As for `packqvit_delegate.export`.

    Raises:
        PackQViTError: As `convert`, and as `packqvit_delegate.export` for the ends and the numbers of images.
    """
    check_ends(model.config, byte_input, top_k)
    if batch_sizes is not None:
        method_names(batch_sizes)
    if normalized(model.config, None, metadata) != model.config:
        raise PackQViTError(
            "the model was prepared without input_normalization, but metadata.preprocessing normalises: give "
            "qat.prepare a configuration with input_normalization=(mean, std)"
        )
    with released(model):
        return finish(
            convert(model),
            model.example_inputs,
            model.config,
            byte_input,
            top_k,
            metadata=metadata,
            batch_sizes=batch_sizes,
        )
