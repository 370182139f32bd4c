"""What an error in each token costs the answer, class probabilities or features."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import torch
from torch.fx import GraphModule, Node
from torch.nn import functional

from ..answers import Kind, answers_of, outputs_of, spread
from ..batching import ImageAxes
from ..errors import CalibrationError
from ..passes.graph import aten, find, has_tensor
from ..passes.layout import is_layout
from ..progress import Progress, silent
from ..row_sample import NOT_FINITE
from .branches import stream_before
from .breadth_first import Stream

IMAGES = 64
"""So many images give a stable mean."""


@dataclasses.dataclass(frozen=True)
class TokenImportance:
    """For each linear of a float graph, by the name of its node, what squared errors in the tokens of its output cost.

    The expectation of the squared gradient of log p(y) with y drawn from the model's own answer p: the diagonal of
    Fisher's information, summed over channels, averaged over images, and brought to a mean of 1 over the tokens. To
    second order, errors of one size in all channels add so much to the Kullback-Leibler divergence of the answers.

    Of embeddings (answers.py), one tensor or several, g.y takes the place of log p(y) with g drawn from a normal
    distribution: the expectation then is what squared errors of the embeddings cost.

    The class token counts more with every block, and in the last one it alone does: 1 of 197 tokens, which sums over
    all tokens hardly notice.

    Source: Kim et al. ("GuidedQuant", ICML 2025) weigh single rows by their squared gradients, channels in groups;
    here it is the mean over images, because single gradients are mostly noise.

    Attributes:
        absolute: Cost of squared errors, float32 [T]: all rows of one image, [windows, T] for tokens in windows.
        relative: Of linears that are added into a residual stream: cost of squared errors over the variance of the
            token in the stream behind them, float32 [T].
    """

    absolute: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    relative: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def of(self, linear: Node) -> torch.Tensor | None:
        """What tokens count, float32 [T]; in a branch of the stream, beside one over their variance behind it."""
        table = self.absolute if stream_before(linear) is None else self.relative
        importance = table.get(linear.name)
        return None if importance is None else (1 - _SHARE) + _SHARE * importance


_SHARE = 0.5
"""The rest is none: every token keeps a part of its weight."""
_CHUNK = 8
_BYTES = 8 << 30
"""Memory for the activations of the images that run at once, which all stay for the way back."""


def token_importance(
    graph_module: GraphModule,
    batches: Sequence[tuple[torch.Tensor, ...]],
    batch_size: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> TokenImportance:
    """Measures the importance of tokens at all linears.

    Args:
        graph_module: Canonical; observers are passed over.
        batches: Inputs of the graph; the first `IMAGES` images, or a few more, are looked at.
        batch_size: Images that the graph was exported for.
        seed: Of the draws.
        progress: Wraps the loop over the images: progress(iterable, description, length).

    Returns:
        Nothing in its tables for linears that the answers do not depend on.

    Raises:
        CalibrationError: Answers are not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = ImageAxes(graph_module, batch_size)
    sums = _Sums(axes)
    chunks = list(_chunks(batches, axes.at_once(_images_at_once(graph_module, axes.exported))))
    for chunk in (progress or silent)(chunks, "weighing tokens", len(chunks)):
        _measure(graph_module, chunk, axes, generator, sums)
    return TokenImportance(_normalized(sums.absolute), _normalized(sums.relative))


def _images_at_once(graph_module: GraphModule, exported: int) -> int:
    computed = [n for n in graph_module.graph.nodes if n.op == "call_function" and has_tensor(n) and not is_layout(n)]
    size = sum(node.meta["val"].nbytes for node in computed) // exported
    return max(1, min(_CHUNK, _BYTES // max(1, size)))


def _chunks(batches: Sequence[tuple[torch.Tensor, ...]], size: int) -> Iterator[tuple[torch.Tensor, ...]]:
    images = 0
    for batch in batches:
        for chunk in zip(*(tensor.split(size) for tensor in batch), strict=True):
            if images >= IMAGES:
                return
            yield chunk
            images += chunk[0].shape[0]


@dataclasses.dataclass
class _Sums:
    axes: ImageAxes
    absolute: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    relative: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    def add(self, node: Node, gradient: torch.Tensor, behind: torch.Tensor | None) -> None:
        """Takes gradients [..., C], and for a branch of the stream what the stream is behind it."""
        squares = gradient.square().sum(-1)
        self.absolute[node.name] = self.absolute.get(node.name, torch.zeros(())) + self.axes.total(node, squares)
        if behind is not None:
            squares = squares * behind.var(-1, correction=0)
            self.relative[node.name] = self.relative.get(node.name, torch.zeros(())) + self.axes.total(node, squares)


@torch.enable_grad()
def _measure(
    graph_module: GraphModule,
    inputs: tuple[torch.Tensor, ...],
    axes: ImageAxes,
    generator: torch.Generator,
    sums: _Sums,
) -> None:
    inputs = tuple(x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs)
    stream = Stream(graph_module, [inputs], axes.exported, axes)
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and node.users:  # an observer
            stream.pass_on(node, node.args[0])
        elif node.op in ("placeholder", "get_attr") or node.op == "call_function" and node.users:
            stream.run(node)
    answers = [stream[node][0] for node in outputs_of(graph_module)]
    nodes = [node for node in find(graph_module, aten.linear.default) if node.users and _has_tokens(stream[node][0])]
    if not nodes or not any(answer.requires_grad for answer in answers):
        return
    if not all(bool(torch.isfinite(answer).all()) for answer in answers):
        raise CalibrationError(NOT_FINITE)
    kinds = answers_of(graph_module)
    felt = torch.stack([_felt(answer, kind, generator) for answer, kind in zip(answers, kinds, strict=True)]).sum()
    values = [stream[node][0] for node in nodes]
    gradients = torch.autograd.grad(felt, values, allow_unused=True)
    for node, gradient in zip(nodes, gradients, strict=True):
        if gradient is None:
            continue
        before = stream_before(node)
        behind = None if before is None else stream[next(iter(node.users))][0].detach()
        sums.add(node, gradient, behind)


def _has_tokens(value: torch.Tensor) -> bool:
    """Whether a value [B, ..., C] has tokens, and depends on the input."""
    return value.ndim > 2 and value.requires_grad


def _felt(answer: torch.Tensor, kind: Kind, generator: torch.Generator) -> torch.Tensor:
    """What is differentiated, summed over the images: log p(y) of drawn classes, or a random projection of embeddings.

    Embeddings are in units of their `spread`, so that of several outputs each counts alike.
    """
    if kind == "classes":
        log_probability = functional.log_softmax(answer, dim=1)
        drawn = torch.multinomial(log_probability.detach().exp(), 1, generator=generator)
        return log_probability.gather(1, drawn).sum()
    direction = torch.randn(answer.shape, generator=generator) / spread(answer.detach()).sqrt()
    return (answer * direction).sum()


def _normalized(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: total / total.mean() for name, total in sums.items() if 0 < float(total.mean()) < math.inf}
