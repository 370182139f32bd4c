"""PackQViTQuantizer: says which tensors of a Vision Transformer get which codes."""

from __future__ import annotations

import fnmatch
import math

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpecBase,
    Quantizer,
)

from ..arguments import checked
from ..config import Bits, QuantizationConfig
from ..errors import PackQViTError, UnsupportedModelError
from ..passes.attention import Attention
from ..passes.candidates import describe_candidates
from ..passes.canonicalize import canonicalize
from ..passes.fold_input_normalization import PIXELS, fold_input_normalization, pixel_grid
from ..passes.functionalize import functionalize_graph
from ..passes.graph import aten, constant, find, is_call, is_constant, shape_of
from ..passes.head_norm import match_head_norm, match_row_norm
from ..passes.integer.linear_rules import MAX_FEATURES
from ..passes.kinds import by_kind, input_of, not_for_linears, without_codes
from ..passes.layout import is_layout, joined_rows, moved_rows, trace
from ..passes.originals import keep_original
from ..passes.patterns import (
    POOLINGS,
    UNARY_FUNCTIONS,
    Embedding,
    adds_to_stream,
    attentions,
    begins_stream,
    function_of,
    is_gate,
    is_input,
    is_post_norm_add,
    joins_streams,
    layer_name,
    linears_behind,
    match_embedding,
    readers,
    reads_as_linear,
    stream_of,
    streams_of,
    sums_up_linears,
)
from ..passes.reasons import NotLowered, describe, name_cause, origin, reason_of, set_reason
from ..passes.remove_no_ops import active_dropouts
from .specs import SpecFactory

_ANNOTATION = "quantization_annotation"
_ACTIVATION = torch.ops.packqvit.activation.default
_INNER = (aten.linear.default, aten.layer_norm.default, aten.softmax.int)
"""Behind every linear but a head there is one of these."""


class PackQViTQuantizer(Quantizer):
    """Annotates a Vision Transformer for integer-only execution after PackQViT (NeurIPS 2023).

    Use it with torchao's PT2E flow::

        module = torch.export.export(model, inputs).module()
        prepared = prepare_pt2e(module, PackQViTQuantizer(bits=4))   # or prepare_qat_pt2e(..., is_qat=True)
        for batch in calibration: prepared(batch)
        integer = packqvit_delegate.passes.lower_to_integer(convert_pt2e(prepared))

    What it cannot place is left in float and stays outside the delegate.
    """

    @checked
    def __init__(
        self,
        bits: Bits = 4,
        activation_bits: Bits | None = None,
        config: QuantizationConfig | None = None,
        *,
        is_qat: bool = False,
    ) -> None:
        """Chooses the widths.

        Args:
            bits: Of the weights: 8 or 4.
            activation_bits: Of the activations; None: as `bits`.
            config: All choices; replaces `bits` and `activation_bits`.
            is_qat: For prepare_qat_pt2e: fake-quant modules instead of observers.

        Raises:
            PackQViTError: The widths are not supported.
        """
        super().__init__()
        self.config = config or QuantizationConfig.from_bits(bits, activation_bits)
        self.specs = SpecFactory(self.config, is_qat)

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Brings the graph into canonical form (passes/canonicalize.py)."""
        model = canonicalize(functionalize_graph(model))
        if self.config.input_normalization is not None:
            model = fold_input_normalization(model, self.config.input_normalization[1])
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotates every tensor that gets codes.

        Raises:
            UnsupportedModelError: There is no attention in the model.
        """
        self.check(model)
        embeddings = [e for e in map(match_embedding, model.graph.nodes) if e is not None]
        for embedding in embeddings:
            self._annotate_embedding(model, embedding)
        for attention in attentions(model):
            self._annotate_attention(attention)
        for node in model.graph.nodes:
            self._annotate_node(model, node)
            self._annotate_stream(node)
        return model

    def check(self, model: GraphModule) -> None:
        """Refuses a canonical graph in which there is nothing to run in integers.

        Raises:
            UnsupportedModelError: There is no attention in the model.
            PackQViTError: An override of the configuration is for a layer that the model does not have.
        """
        self._check_overrides(model)
        if next(attentions(model), None) is None:
            if active_dropouts(model):
                raise UnsupportedModelError(
                    "dropout is active and stands inside the attention: export model.eval(), also for "
                    "quantisation-aware training (a Vision Transformer has nothing else that differs between the modes)"
                )
            raise UnsupportedModelError(
                "the model has no multi-head self-attention of the form softmax(scale * q k^T) v with q, k and v from "
                f"linear layers, so there is no Vision Transformer to run in integers: {describe_candidates(model)}"
            )

    def output_codes(self, node: Node) -> tuple[int, int]:
        """Smallest and largest code of what a LayerNorm, an attention or a function of the canonical graph gives."""
        bits = self._bits_of(node)
        return self.specs.activation_codes(8 if bits is None else bits)

    def _check_overrides(self, model: GraphModule) -> None:
        values = {attention.output for attention in attentions(model)}
        values.update(find(model, aten.layer_norm.default, *POOLINGS, _ACTIVATION, *UNARY_FUNCTIONS))
        layers = {
            "weight_bits": {layer_name(n) for n in find(model, aten.linear.default, aten.conv2d.default)},
            "activation_bits": {layer_name(n) for n in values},
        }
        for pattern, override in self.config.overrides.items():
            for field, names in layers.items():
                if getattr(override, field) is None or any(fnmatch.fnmatchcase(name, pattern) for name in names):
                    continue
                raise PackQViTError(
                    f"the override {pattern!r} sets {field}, but no layer of the model with {field} has such a name; "
                    f"there are, for example, {', '.join(sorted(names)[:4])}"
                )

    def validate(self, model: GraphModule) -> None:
        """Nothing beyond what annotate checks."""

    # Each kind of node, by operator.

    def _annotate_embedding(self, model: GraphModule, embedding: Embedding) -> None:
        convolution = embedding.convolution
        obstacle = _embedding_obstacle(model, embedding)
        if obstacle is not None:  # in float, on its own weights; its tokens get codes all the same
            set_reason(convolution, obstacle)
            _set_output(embedding.output, self.specs.residual())
            return
        bits = self.config.weight_bits_of(layer_name(convolution), edge=True)
        keep_original(model, convolution)
        _set_input(convolution, 1, self.specs.weight(bits))
        _set_output(embedding.output, self.specs.residual())
        image = convolution.args[0]
        assert isinstance(image, Node)
        if self.config.input_normalization is not None and PIXELS in image.meta:
            _set_output(image, self.specs.pixels(*pixel_grid(*self.config.input_normalization)))
        else:  # what moves it, as patches and frames are, moves its codes
            source, _ = trace(image)
            _set_output(image if joined_rows(source, image) is None else source, self.specs.activation(8))

    def _annotate_attention(self, attention: Attention) -> None:
        inputs = [
            (attention.key, attention.key_norm, attention.key_rotary),
            (attention.value, None, None),
        ]
        if attention.has_constant_query:
            _set_input(attention.scores, 0, self.specs.attention_input(constant=True))
        else:
            inputs.insert(0, (attention.query, attention.query_norm, attention.query_rotary))
        for linear, *changes in inputs:
            *before, last = [linear, *(change.value for change in changes if change is not None)]
            for value in before:
                _set_output(value, self.specs.branch())
            _set_output(last, self.specs.attention_input())
        _set_output(attention.softmax, self.specs.probabilities())
        bits = self.config.activation_bits_of(layer_name(attention.output))
        _set_output(attention.output, self.specs.activation(8 if _feeds_norm(attention.output) else bits))

    def _annotate_node(self, model: GraphModule, node: Node) -> None:
        if is_call(node, aten.linear.default):
            self._annotate_linear(model, node)
        elif is_call(node, aten.layer_norm.default) and (_has_codes(node) or _is_post_norm(node)):
            pass  # of q or k; or without codes of its own, as what it is added to
        elif is_gate(node):
            self._annotate_gate(node)
        elif is_call(node, *POOLINGS) or _is_norm(node):
            self._annotate_norm_or_pooling(node)
        elif is_call(node, _ACTIVATION, *UNARY_FUNCTIONS):
            bits = self._function_bits(node)
            if bits is not None:
                _set_output(node, self.specs.activation(bits))
            else:
                set_reason(node, not_for_linears(node))
        elif adds_to_stream(node) or joins_streams(node):
            _set_output(node, self._stream_spec(node))
        elif is_call(node, aten.add.Tensor, aten.conv2d.default) and not _has_codes(node) and reason_of(node) is None:
            set_reason(node, by_kind(node))

    def _annotate_norm_or_pooling(self, node: Node) -> None:
        """Codes as linears read them, of a stream that begins here, or of 16 bits where anything else reads it."""
        bits = self._bits_of(node)
        if bits is not None:
            _set_output(node, self.specs.activation(bits))
        elif begins_stream(node):
            _set_output(node, self.specs.residual())
        elif _reads_codes(_norm_of(node)):
            _set_output(node, self.specs.branch())
        else:
            set_reason(node, without_codes(node))
            name_cause(node, input_of(node))

    def _annotate_gate(self, node: Node) -> None:
        """The product as linears read it, or of 16 bits for a norm; of 16 bits what is no function's result, too."""
        bits = self._bits_of(node)
        _set_output(node, self.specs.branch() if bits is None else self.specs.activation(bits))
        for operand in node.args:
            if is_call(operand, aten.linear.default):
                _set_output(operand, self.specs.branch())  # type: ignore[arg-type]

    def _annotate_stream(self, node: Node) -> None:
        """What a LayerNorm or a residual addition reads from operators without codes is rounded to the stream's.

        A linear that only a LayerNorm reads, as in a post-norm, gets a grid of its own; so does one that `activation`
        reads, as others than linears read it too.
        """
        if is_call(node, _ACTIVATION) and _is_integer_linear(source := stream_of(node)):
            _set_output(source, self.specs.branch())
        is_norm = _is_norm(node) and (_has_codes(node) or _is_post_norm(node))
        reads = is_norm or adds_to_stream(node) or joins_streams(node)
        if not reads or match_head_norm(node) is not None:
            return
        reader = _norm_of(node)
        for source in streams_of(reader):
            if is_input(source) or (source.op == "call_function" and not _is_norm(source)):
                alone = is_norm and is_call(source, aten.linear.default) and len(readers(source) or ()) == 1
                embeds = is_call(source, aten.linear.default) and not begins_stream(source) and reader is not node
                _set_output(source, self.specs.branch() if alone or embeds else self._stream_spec(node))

    def _stream_spec(self, reader: Node) -> QuantizationSpecBase:
        """Of what an addition or a LayerNorm reads and writes: 16 bits for sums of linears, which are answers."""
        return self.specs.branch() if sums_up_linears(reader) else self.specs.residual()

    def _bits_of(self, node: Node) -> int | None:
        """Width of a value that linears read; None where anything else reads it."""
        linears = linears_behind(node)
        if not linears:
            return None
        edge = any(map(_is_edge, linears))
        return self.config.activation_bits_of(layer_name(node), edge=edge)

    def _function_bits(self, node: Node) -> int | None:
        """Width of the result of a function or an `activation`: 8 bits where others than linears may read it.

        These are a gate, a LayerNorm inside an MLP, and the model's output.
        """
        leaves = is_call(node, _ACTIVATION) or _is_output(node) or any(map(is_gate, node.users)) or _feeds_norm(node)
        return 8 if (bits := self._bits_of(node)) is None and leaves else bits

    def _annotate_linear(self, model: GraphModule, node: Node) -> None:
        obstacle = _obstacle(node)
        if obstacle is None:  # else its weights stay as they are: rounding them would save nothing
            bits = self.config.weight_bits_of(layer_name(node), edge=_is_edge(node))
            keep_original(model, node)
            _set_input(node, 1, self.specs.weight(bits))
        else:
            set_reason(node, str(obstacle))
            name_cause(node, obstacle.cause)
        users = list(node.users)
        if len(users) == 1 and is_call(users[0], *UNARY_FUNCTIONS) and self._function_bits(users[0]) is not None:
            activation = users[0]
            _set_output(node, self.specs.before(function_of(activation)))
        elif (output_bits := self._bits_of(node)) is not None:  # linears read it, as in low-rank layers
            _set_output(node, self.specs.activation(output_bits))


def _annotation(node: Node) -> QuantizationAnnotation:
    return node.meta.setdefault(_ANNOTATION, QuantizationAnnotation(_annotated=True))


def _embedding_obstacle(model: GraphModule, embedding: Embedding) -> str | None:
    """Why a patch embedding cannot run in integers, or None."""
    features = math.prod(shape_of(embedding.convolution.args[1])[1:])
    if features > MAX_FEATURES:
        return f"its patches have {features} values; they would have to be smaller, of at most {MAX_FEATURES}"
    prefix = None if embedding.prefix is None else constant(model, embedding.prefix)
    if prefix is not None and not bool((prefix == prefix[:1]).all()):
        return "the tokens in front of its patches differ between the images of a batch: they would have to be the same"
    return None


def _obstacle(linear: Node) -> NotLowered | None:
    """Why a linear cannot run in integers, or None: what reads no 8-bit codes computes in float."""
    value, weight, *bias = linear.args
    if not all(operand is None or is_constant(operand) for operand in (weight, *bias)):
        return NotLowered("its weights are computed at run time: they would have to be constant")
    assert isinstance(value, Node)
    # An attention's output and a patch embedding's are moves by themselves: they end the walk, as they have codes.
    base, _ = trace(value, lambda passed: is_layout(passed) and not _has_codes(passed))
    if moved_rows(base, value) is None:
        base = value
    if not _has_codes(base):
        source = origin(value)
        return NotLowered(f"its input comes from {describe(source)}, which has no integer codes", source)
    features = shape_of(weight)[1]
    if features > MAX_FEATURES:
        return NotLowered(f"it has {features} input features: they would have to be at most {MAX_FEATURES}")
    return None


def _has_codes(node: Node) -> bool:
    annotation = node.meta.get(_ANNOTATION)
    return annotation is not None and annotation.output_qspec is not None


def _set_output(node: Node, spec: QuantizationSpecBase) -> None:
    if _annotation(node).output_qspec is None:
        _annotation(node).output_qspec = spec


def _set_input(node: Node, index: int, spec: QuantizationSpecBase) -> None:
    argument = node.args[index]
    assert isinstance(argument, Node)
    _annotation(node).input_qspec_map[argument] = spec


def _is_integer_linear(node: Node) -> bool:
    """Whether a node is a linear whose weights get codes."""
    return is_call(node, aten.linear.default) and node.args[1] in _annotation(node).input_qspec_map


def _is_norm(node: Node) -> bool:
    """Whether a node is the result of a LayerNorm, or of an RMSNorm or an L2 normalisation of whole rows."""
    return is_call(node, aten.layer_norm.default) or match_row_norm(node) is not None


def _feeds_norm(value: Node) -> bool:
    """Whether a LayerNorm reads a value, as in the attention and the MLP of BEiT v3."""
    return any(is_call(reader, aten.layer_norm.default) for reader, _ in readers(value) or ())


def _norm_of(value: Node) -> Node:
    """What reads the input of a norm, whose result may have a factor behind it; any other node as it is."""
    norm = match_row_norm(value)
    return value if norm is None else norm.norm


def _reads_codes(reader: Node) -> bool:
    """Whether what a LayerNorm or a pooling reads is there in codes, for others or from an integer linear."""
    source = stream_of(reader)
    return _has_codes(source) or _is_integer_linear(source)


def _is_output(value: Node) -> bool:
    """Whether a value goes to the model's output, moved as whole tokens at most, or to linears, but nowhere else."""
    reading = readers(value)
    return reading is not None and all(reader.op == "output" or reads_as_linear(reader) for reader, _ in reading)


def _is_post_norm(norm: Node) -> bool:
    return any(is_post_norm_add(user) and user.args[1] is norm for user in norm.users)


def _is_edge(linear: Node) -> bool:
    """Whether a linear is one of the first or last layers: it reads an input that is no stream, or feeds an output."""
    return _feeds_output(linear) or _reads_input(linear)


def _reads_input(linear: Node) -> bool:
    source = stream_of(linear)
    if is_call(source, _ACTIVATION):
        source = stream_of(source)
    users = [user for user, _ in readers(source) or () if user.op != "call_module"]  # not torch.export's guards
    return is_input(source) and all(is_call(user, _ACTIVATION) for user in users)


def _feeds_output(linear: Node) -> bool:
    """Whether nothing behind a linear computes in integers: its result leaves the model, as a head's does."""
    seen, waiting = {linear}, [linear]
    while waiting:
        for user in waiting.pop().users:
            if is_call(user, *_INNER):
                return False
            if user not in seen:
                seen.add(user)
                waiting.append(user)
    return True
