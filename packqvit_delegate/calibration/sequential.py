"""Calibration in the order of the graph: ranges and weights are decided on the inputs that they will really get."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.fx import GraphModule, Node

from ..arguments import check_fields, checked
from ..errors import CalibrationError, PackQViTError
from ..passes.equalize_layer_norm import STEP
from ..passes.graph import add_constant, aten, constant, is_call, is_constant, is_trainable
from ..passes.patterns import layer_name, multiplies
from ..progress import Progress, silent
from ..quantizer.observers import CodeObserver, MinMSEObserver, SampledObserver, WeightObserver
from ..row_sample import FEW_ROWS, NOTHING_OBSERVED
from .branches import branch_behind, rows_of, sample_rows, stream_before
from .breadth_first import Stream, fleeting_values, last_uses
from .compensation import Compensation
from .rounding import Rounded, round_settled, round_to_nearest
from .statistics import InputMoments
from .token_importance import TokenImportance, token_importance

logger = logging.getLogger(__name__)

_TOO_FEW_ROWS = 32
"""Below these a range is widened so much that it costs a bit and more."""
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class CalibrationMethod:
    """What calibration does beside choosing ranges; only `split_outliers` costs anything when the program runs.

    Attributes:
        rounding: `gptq`: weights are rounded for the least error of the layer's output; `nearest`: one by one.
        bias_correction: Biases take back the mean of what rounding the weights does to the output.
        compensation: Where the weights of a layer have less than 8 bits, they and the bias take back a part of the
            errors before them (calibration/compensation.py).
        clipping: Ranges end where the squared error is least, so that long tails are clipped; False: at the extremes
            that were seen, but for products of two activations, whose tails are always long.
        token_importance: Weights are rounded, and errors made up for, by what errors cost the answer token by token
            (calibration/token_importance.py); False: for all tokens alike.
        split_outliers: Hidden channels with massive activations become several that saturate
            (passes/split_outlier_channels.py): at most a sixteenth more channels, in the layers that have such.
        rotation: Whether random rotations mix the channels of attention's values and of an int16 residual stream
            (passes/rotate_values.py, passes/rotate_residual.py). None: where weights or activations have 4 bits, but
            not in quantisation-aware training.
        damping: Of `gptq`'s Hessians, as a share of their mean diagonal.

    Raises:
        PackQViTError: A value is not one of these.
    """

    rounding: Literal["gptq", "nearest"] = "gptq"
    bias_correction: bool = True
    compensation: bool = True
    clipping: bool = True
    token_importance: bool = True
    split_outliers: bool = True
    rotation: bool | None = None
    damping: float = 0.01

    def __post_init__(self) -> None:
        """Checks every field."""
        check_fields(self)
        if not self.damping > 0:
            raise PackQViTError(f"damping is {self.damping}, but has to be positive")


@checked
@torch.no_grad()
def calibrate(
    prepared: GraphModule,
    batches: Sequence[tuple[torch.Tensor, ...]],
    batch_size: int = 1,
    method: CalibrationMethod | None = None,
    progress: Progress | None = None,
) -> None:
    """Decides the grids of all observers and the weights behind them, in place.

    All images pass a node before the next node's turn, and what a node decides the nodes behind it see: ranges and
    weights suit the inputs that they will really get.

    Args:
        prepared: Result of prepare_pt2e with PackQViTQuantizer.
        batches: Inputs of the graph; all of them stay in memory, and so do the largest activations of one block.
        batch_size: Images that the graph was exported for.
        method: What to do with weights; None: CalibrationMethod().
        progress: Wraps the loops over images and nodes: progress(iterable, description, length).

    Raises:
        CalibrationError: There are no batches, or activations are not finite.
    """
    if not batches:
        raise CalibrationError(NOTHING_OBSERVED)
    method = method or CalibrationMethod()
    tokens = TokenImportance()
    if method.token_importance:
        tokens = token_importance(prepared, batches, batch_size, progress=progress)
    _Calibrator(prepared, batches, batch_size, method, tokens).run(progress or silent)


class _Calibrator:
    def __init__(
        self,
        prepared: GraphModule,
        batches: Sequence[tuple[torch.Tensor, ...]],
        batch_size: int,
        method: CalibrationMethod,
        tokens: TokenImportance,
    ) -> None:
        self._module = prepared
        self._method, self._tokens, self._batches = method, tokens, batches
        self._few_rows: dict[str, int] = {}
        self._fleeting = fleeting_values(prepared)
        self._stream = Stream(prepared, batches, batch_size, fleeting=self._fleeting)
        # The same values in float, where something is done about the difference.
        compensates = any(self._compensates(node) for node in prepared.graph.nodes)
        self._float = None
        if compensates:
            self._float = Stream(prepared, batches, batch_size, self._stream.axes, self._fleeting, rounds=False)

    def run(self, progress: Progress) -> None:
        done = last_uses(self._module, self._fleeting)
        # Without users: torch.export's check of the input shapes, which are not those of a calibration batch.
        nodes = [node for node in self._module.graph.nodes if node.op == "placeholder" or node.users]
        for node in progress(nodes, "calibrating", len(nodes)):
            observer, dying = self._observer(node), done.get(node, [])
            self._run_in_float(node, observer, dying)
            if observer is not None and node not in self._fleeting:
                self._observe(node, observer, dying)
            else:
                if self._decides_weights(node):
                    self._decide_weights(node)
                self._stream.run(node, dying)
            for value in dying:
                self._forget(value)
        self._module.recompile()
        self._warn_of_few_rows()

    def _warn_of_few_rows(self) -> None:
        if not self._few_rows:
            return
        images = sum(batch[0].shape[0] for batch in self._batches)
        rows = min(self._few_rows.values())
        names = list(self._few_rows)
        logger.warning(
            "%d calibration image(s) are few for %s%s: %d row(s) decide each range, which is widened for that; "
            "give %d images or more",
            images,
            ", ".join(names[:_NAMED]),
            f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "",
            rows,
            math.ceil(FEW_ROWS * images / rows),
        )

    def _run_in_float(self, node: Node, observer: CodeObserver | None, dying: list[Node]) -> None:
        if self._float is None:
            return
        if observer is None:  # weights are decided after this, and look at their layer's inputs in float
            self._float.run(node, () if self._decides_weights(node) else dying)
        else:
            source = node.args[0]
            assert isinstance(source, Node)
            self._float.pass_on(node, source)

    def _forget(self, value: Node) -> None:
        self._stream.forget(value)
        if self._float is not None:
            self._float.forget(value)

    def _observer(self, node: Node) -> CodeObserver | None:
        module: nn.Module | None = self._module.get_submodule(str(node.target)) if node.op == "call_module" else None
        return module if isinstance(module, CodeObserver) else None

    def _weight_observer(self, linear: Node) -> WeightObserver | None:
        observed = linear.args[1]
        observer = self._observer(observed) if isinstance(observed, Node) else None
        constant_weight = observer is not None and is_constant(observed.args[0])  # type: ignore[union-attr]
        return observer if isinstance(observer, WeightObserver) and constant_weight else None

    def _decides_weights(self, node: Node) -> bool:
        return is_call(node, aten.linear.default) and self._weight_observer(node) is not None

    def _observe(self, node: Node, observer: CodeObserver, dying: list[Node]) -> None:
        source = node.args[0]
        assert isinstance(source, Node)
        if is_constant(source):
            weight = constant(self._module, source)
            self._stream[node] = observer.fake_quantize(observer(weight))
            return
        if isinstance(observer, MinMSEObserver):
            observer.importance = self._importance(node)
            if STEP in source.meta:
                observer.fix(source.meta[STEP], 0)
        for value in self._stream[source]:
            observer(value)
        if isinstance(observer, SampledObserver) and observer.sample.count < _TOO_FEW_ROWS:
            self._few_rows[layer_name(source)] = observer.sample.count
        searches = isinstance(observer, MinMSEObserver) and STEP not in source.meta
        clips = self._method.clipping or multiplies(source)
        if searches and not clips:
            observer.fix(*observer.parameters_for(*observer.sample.range()))
        branch = branch_behind(node) if searches and clips else None
        enters = branch is not None and self._stream_before(branch[1]) and self._weight_observer(branch[1])
        if branch is not None and enters and not observer.sample.is_small:
            observer.weigh_rows(*self._weighted_rows(source, *branch))
        self._stream.apply(node, source, observer.fake_quantize, dying)

    def _weighted_rows(self, value: Node, functions: list[Node], linear: Node) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of a value on the way into the residual stream: an even sample, and all with extreme values.

        A row's error counts by one over the variance of the token that it becomes part of, see `_token_variances`.
        """
        values = self._stream[value]
        variances = self._token_variances(linear, (_through(functions, x) for x in values))
        variance = torch.cat([v.flatten() for v in variances])
        chosen, counts = sample_rows(torch.cat([x.abs().amax(-1).flatten() for x in values]), values[0].shape[-1])
        return rows_of(values, chosen), counts / variance[chosen]

    def _importance(self, observed: Node) -> torch.Tensor | None:
        """What an error of each channel costs behind the linears that read it: the energy of its weights."""
        energies = []
        for user in observed.users:
            if not is_call(user, aten.linear.default) or self._weight_observer(user) is None:
                return None
            energies.append(constant(self._module, user.args[1].args[0]).square().sum(0))  # type: ignore
        return torch.stack(energies).sum(0) if energies else None

    def _decide_weights(self, node: Node) -> None:
        """Rounds the weights of a linear for its inputs, and corrects its bias."""
        observer = self._weight_observer(node)
        inputs, observed = node.args[:2]
        assert observer is not None and isinstance(inputs, Node) and isinstance(observed, Node)
        weight_node: Any = observed.args[0]
        weight = constant(self._module, weight_node).double()
        bias_node: Any = node.args[2] if len(node.args) > 2 else None
        corrects = bias_node is not None and self._method.bias_correction
        moments = InputMoments(weight.shape[1])
        row_weights = self._row_weights(node)
        for x, row_weight in zip(self._stream[inputs], row_weights, strict=True):
            moments.add(x, row_weight)
        hessian = moments.hessian(corrects)
        compensation = self._compensation(node, weight, row_weights) if self._compensates(node) else None
        target = weight if compensation is None else compensation.weight(weight, hessian, corrects)
        on_grid = self._round(target, hessian, observer.quant_max)
        rounded = on_grid.codes * on_grid.scales.unsqueeze(1)
        observer.fix(rounded.float(), on_grid.scales.float(), source=on_grid.unrounded.float())
        self._replace(observed, 0, rounded.float())
        self._stream[observed] = rounded.float()
        if corrects:
            bias = constant(self._module, bias_node).double() + (weight - rounded) @ moments.mean()
            if compensation is not None:
                bias += compensation.bias(weight)
            self._replace(node, 2, bias.float())

    def _compensates(self, node: Node) -> bool:
        """Whether a node is a linear whose weights have less than 8 bits, and that is to be made use of."""
        if not self._method.compensation or not is_call(node, aten.linear.default):
            return False
        source, weights = node.args[0], self._weight_observer(node)
        has_codes = isinstance(source, Node) and self._observer(source) is not None
        return weights is not None and weights.narrow and has_codes

    def _compensation(self, linear: Node, weight: torch.Tensor, row_weights: list[torch.Tensor | None]) -> Compensation:
        """What is known about the errors before a linear."""
        source, stream = linear.args[0], self._stream_before(linear)
        assert self._float is not None and isinstance(source, Node)
        compensation = Compensation(*weight.shape)
        for index, (x, float_x) in enumerate(zip(self._stream[source], self._float[source], strict=True)):
            lack = None if stream is None else self._float[stream][index] - self._stream[stream][index]
            compensation.add(x, float_x, lack, row_weights[index])
        return compensation

    def _row_weights(self, linear: Node) -> list[torch.Tensor | None]:
        """For each batch of a linear's inputs [..., K], what its rows count, float32 [...]; None: all alike.

        That is the importance of the tokens, in a branch of the residual stream times one over `_token_variances`.
        """
        source = linear.args[0]
        assert isinstance(source, Node)
        inputs, importance, stream = self._stream[source], self._tokens.of(linear), self._stream
        weights: list[torch.Tensor | None] = [None] * len(inputs)
        if importance is not None:
            weights = [stream.axes.spread(linear, importance, stream.images(i)) for i in range(len(inputs))]
        if self._stream_before(linear) is None:
            return weights
        variances = self._token_variances(linear, inputs)
        return [(1.0 if w is None else w) / variance for w, variance in zip(weights, variances, strict=True)]

    def _stream_before(self, linear: Node) -> Node | None:
        """The residual stream that a linear is added to, if it is computed before the linear."""
        stream = stream_before(linear)
        return stream if stream in self._stream else None

    def _token_variances(self, linear: Node, inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """Variance of what a token becomes when a linear with these inputs is added into the residual stream.

        That is what the next LayerNorm divides it by. Without it, the few tokens with massive activations decide all.
        """
        stream, observed = stream_before(linear), linear.args[1]
        assert stream is not None and isinstance(observed, Node)
        weight = constant(self._module, observed.args[0])
        pairs = zip(self._stream[stream], inputs, strict=True)
        tokens = (before + nn.functional.linear(x, weight) for before, x in pairs)
        return [token.var(-1, correction=0).clamp_min(1e-12) for token in tokens]

    def _round(self, weight: torch.Tensor, hessian: torch.Tensor, qmax: int) -> Rounded:
        if self._method.rounding == "gptq":
            return round_settled(weight, hessian, qmax, self._method.damping)
        return round_to_nearest(weight, hessian, qmax)

    def _replace(self, node: Node, index: int, value: torch.Tensor) -> None:
        old = node.args[index]
        assert isinstance(old, Node)
        with self._module.graph.inserting_before(node):
            new = add_constant(self._module, value, str(old.target), is_trainable(self._module, old))
        node.update_arg(index, new)
        self._stream.run(new)
        if not old.users:
            self._module.graph.erase_node(old)
            self._forget(old)


def _through(functions: list[Node], x: torch.Tensor) -> torch.Tensor:
    for function in functions:
        assert callable(function.target)
        x = function.target(x, *function.args[1:], **function.kwargs)
    return x
