"""Which operator and which block of an integer graph loses how much against the float model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.fx import GraphModule, Node

from ..answers import answers_of, divergence
from ..arguments import checked
from ..batching import ImageAxes
from ..calibration import CalibrationMethod
from ..calibration.batches import CHUNK, Batch, Batches
from ..config import QuantizationConfig
from ..embeddings import cosine_similarity
from ..entry import FloatModel
from ..files import replacing
from ..grids import values_of
from ..passes.graph import is_call
from ..passes.lower_to_integer import FLOAT_NAME, GRID
from ..passes.patterns import UNARY_FUNCTIONS, function_of
from ..preparation import make_pair
from ..progress import Progress, silent
from .roles import Place, block_count, places, selected_tokens
from .signal import SignalToNoise
from .streams import OnDemand, Steps, computed, output_of

_STREAM = ("embedding", "stream 1", "stream 2")


@dataclasses.dataclass(frozen=True)
class OperatorLoss:
    """What one operator of the integer graph loses.

    All figures are signal-to-noise ratios in decibels against the float model: larger is better, 6 dB are one bit.
    Those of `fc1` are taken behind the activation function: what that makes 0 anyway may be cut off.

    Attributes:
        layer: Module that it came from, e.g. `blocks.3.mlp.fc1`.
        block: Number of its block; -1 before the first one, the number of blocks behind the last one.
        role: What it does there, one of roles.ROLES.
        snr: Of its values, each token's noise over that token's own signal (for the residual stream the variance,
            which the next LayerNorm divides by). All losses before it are in it.
        plain_snr: The same without the division: all tokens' noise over all tokens' signal. A few tokens with massive
            activations decide it.
        own_snr: As `snr`, for what this operator alone loses: it is compared with the float operator on the very values
            that it got.
        node: Its name in the integer graph; "" for the output.
    """

    layer: str
    block: int
    role: str
    snr: float
    plain_snr: float
    own_snr: float
    node: str = ""


@dataclasses.dataclass(frozen=True)
class SensitivityReport:
    """How far an integer graph is from the float model, operator by operator.

    Attributes:
        operators: In the order of the graph; the last one is the output.
        blocks: Number of blocks.
        images: Number of images that were measured.
        agreement: Share of outputs with the same best class as the float model's; None of embeddings.
        divergence: Mean Kullback-Leibler divergence of the integer model's class probabilities from the float
            model's, in nats; None of embeddings.
        cosine: Mean cosine of the embeddings with the float model's; None of classes.
    """

    operators: tuple[OperatorLoss, ...]
    blocks: int
    images: int
    agreement: float | None
    divergence: float | None
    cosine: float | None = None

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @checked
    def save(self, path: str | Path) -> None:
        """Writes the report as JSON.

        Raises:
            PackQViTError: The file cannot be written.
        """
        with replacing(path) as partial:
            partial.write_text(self.to_json(), encoding="utf-8")


@checked
@torch.no_grad()
def measure(
    reference: GraphModule, integer: GraphModule, images: Batches, progress: Progress | None = None
) -> SensitivityReport:
    """Runs both graphs on the same images and compares them at every operator.

    Args:
        reference: The float graph that `integer` was made from (api.float_graph); it has to have the same names.
        integer: Result of lower_to_integer.
        images: Inputs. A few of them run at once, and all values live only as long as they are read.
        progress: Wraps the loop over the chunks.

    Returns:
        The report. The same images give the same report.
    """
    comparison = _Comparison(reference, integer, images.size)
    chunks = images.chunks()
    for chunk in (progress or silent)(chunks, "comparing with float", len(chunks)):
        for part in zip(*(tensor.split(comparison.at_once) for tensor in chunk), strict=True):
            comparison.add(part)
    return comparison.report()


@checked
def analyze(
    model: FloatModel,
    example_inputs: tuple[torch.Tensor, ...],
    calibration: Iterable[Batch],
    config: QuantizationConfig | None = None,
    *,
    images: Iterable[Batch] | None = None,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
) -> SensitivityReport:
    """Quantises a model as `packqvit_delegate.export` does, and measures what each operator loses.

    Args:
        model: As for `export`.
        example_inputs: As for `export`.
        calibration: As for `export`.
        config: All choices; None: W4A4.
        images: Inputs that are compared; None: those of `calibration`, on which the integers look a little better.
        method: As for `export`.
        progress: As for `export`.

    Raises:
        PackQViTError: As `export`.
    """
    batches = Batches(calibration, example_inputs)
    compared = batches if images is None else Batches(images, example_inputs)
    pair = make_pair(model, example_inputs, batches, config or QuantizationConfig.preset("w4a4"), method, progress)
    return measure(pair.reference, pair.to_integer(), compared, progress)


class _Comparison:
    """Three streams side by side: the float model, the integer one, and the float operators on the integers' values."""

    def __init__(self, reference: GraphModule, integer: GraphModule, batch_size: int) -> None:
        self._reference, self._integer, self._batch_size = reference, integer, batch_size
        self._axes = ImageAxes(reference, batch_size), ImageAxes(integer, batch_size)
        self.at_once = min(axes.at_once(CHUNK // 4) for axes in self._axes)
        self._places = {node: place for node, place in places(integer).items() if FLOAT_NAME in node.meta}
        self._float_nodes = {node.name: node for node in reference.graph.nodes}
        self._tokens = selected_tokens(integer)
        self._outputs = output_of(reference), output_of(integer)
        self._whole = {node: SignalToNoise(place.role in _STREAM) for node, place in self._places.items()}
        self._own = {node: SignalToNoise(place.role in _STREAM) for node, place in self._places.items()}
        self._has_classes = answers_of(reference)[:1] == ("classes",)
        self._answer, self._own_answer = SignalToNoise(False), SignalToNoise(False)
        self._images = self._same = 0
        self._divergence = self._cosine = 0.0

    def add(self, batch: tuple[torch.Tensor, ...]) -> None:
        """Takes images."""
        twins = [self._float_nodes[node.meta[FLOAT_NAME]] for node in self._places]
        truth = OnDemand(self._reference, batch, self._batch_size, twins, self._axes[0])
        local = OnDemand(self._reference, batch, self._batch_size, twins, self._axes[0])
        stream = Steps(self._integer, [batch], self._batch_size, self._axes[1])
        for node in computed(self._integer):
            stream.run(node)
            if node in self._places:
                twin = self._float_nodes[node.meta[FLOAT_NAME]]
                value = values_of(stream[node][0], node.meta[GRID])
                felt = _function_behind(twin)
                self._whole[node].add(felt(self._rows(node, truth.take(twin), value)), felt(value))
                expected = local.take(twin)
                self._own[node].add(felt(self._rows(node, expected, value)), felt(value))
                local.replace(twin, self._merged(node, expected, value))
            stream.release(node)
        output = stream[self._outputs[1]][0].float()
        wanted = truth.take(self._outputs[0])
        self._answer.add(wanted, output)
        self._own_answer.add(local.take(self._outputs[0]), output)
        self._images += batch[0].shape[0]
        if self._has_classes:
            self._same += int((wanted.argmax(-1) == output.argmax(-1)).sum())
            self._divergence += float(divergence(wanted, output).sum())
        else:
            self._cosine += float(cosine_similarity(output, wanted).sum())

    def _rows(self, node: Node, reference: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The part of a float value that the integer graph computes: it leaves out tokens that nobody reads."""
        if reference.numel() != value.numel():
            reference = reference.index_select(-2, torch.tensor(self._tokens[node]))
        return reference.reshape(value.shape)

    def _merged(self, node: Node, reference: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """A float value with the tokens that the integer graph computes replaced by the latter's."""
        if reference.numel() == value.numel():
            return value.reshape(reference.shape)
        index = torch.tensor(self._tokens[node])
        shape = (*reference.shape[:-2], index.numel(), reference.shape[-1])
        return reference.index_copy(-2, index, value.reshape(shape))

    def report(self) -> SensitivityReport:
        """What was measured."""
        blocks = block_count(self._integer)
        operators = [
            _loss(place, self._whole[node], self._own[node], node.name) for node, place in self._places.items()
        ]
        last = Place("output", blocks, "logits" if self._has_classes else "output")
        operators.append(_loss(last, self._answer, self._own_answer))
        agreement, nats, cosine = (total / self._images for total in (self._same, self._divergence, self._cosine))
        found = (agreement, nats, None) if self._has_classes else (None, None, cosine)
        return SensitivityReport(tuple(operators), blocks, self._images, *found)


def _function_behind(value: Node) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation function that reads a value, and nothing else does; else the identity."""
    user = next(iter(value.users)) if len(value.users) == 1 else None
    if user is None or not is_call(user, *UNARY_FUNCTIONS):
        return lambda x: x
    return function_of(user)


def _loss(place: Place, whole: SignalToNoise, own: SignalToNoise, node: str = "") -> OperatorLoss:
    snr, plain, alone = (round(f, 2) for f in (whole.decibel_per_row(), whole.decibel(), own.decibel_per_row()))
    return OperatorLoss(place.layer, place.block, place.role, snr, plain, alone, node)
