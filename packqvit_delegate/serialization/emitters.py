"""One function an operator: from the node of the integer graph to the table of schema.fbs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

import packqvit_delegate.serialization.plan_generated as fb

from .fusion import behind_views
from .names import operator_name
from .plan_builder import PlanBuilder, emits, emits_fused, touch
from .score_bias import by_index, in_16_bits


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


_NO_TOKEN = 0xFFFFFFFF
"""Index of a token that a pad puts in."""

_NO_VALUE = 0xFFFFFFFF
"""Stands for a value where a constant takes its place: runtimes that know no such constant refuse it."""


def _is_narrow(weight_bits: Any) -> bool:
    return bool(weight_bits == 4)


def _requantizer(
    plan: PlanBuilder,
    multiplier: Any,
    shift: Any,
    left_shift: Any,
    fraction_bits: Any,
    zero_point: Any = 0,
    qmin: Any = 0,
    qmax: Any = 0,
) -> fb.RequantizerT:
    table = fb.RequantizerT()
    table.multiplier, table.shift = plan.constant(multiplier), plan.constant(shift)
    table.leftShift, table.fractionBits = left_shift, fraction_bits
    table.zeroPoint, table.qmin, table.qmax = zero_point, qmin, qmax
    return table


@emits("quantize")
def emit_quantize(plan: PlanBuilder, node: Node) -> fb.QuantizeT:
    """packqvit.quantize."""
    x, inverse_scale, offset, axis, qmin, qmax = node.args
    table = fb.QuantizeT()
    table.x = plan.read(x)
    table.inverseScale, table.offset = plan.constant(inverse_scale), plan.constant(offset)
    table.qmin, table.qmax = qmin, qmax
    plan.set_axis(table, x, axis)
    return table


@emits("dequantize")
def emit_dequantize(plan: PlanBuilder, node: Node) -> fb.DequantizeT:
    """packqvit.dequantize."""
    x, scale, zero_point, axis, *channels_first = node.args
    table = fb.DequantizeT()
    table.channelsFirst = any(channels_first)
    first, *tokens, last = _shape(x)
    table.x = plan.read_shaped(x, [first, math.prod(tokens), last]) if table.channelsFirst else plan.read(x)
    table.scale = plan.constant(scale)
    table.zeroPoint = zero_point
    plan.set_axis(table, x, axis)
    return table


def _linear(plan: PlanBuilder, x: Any, weight: Any, bias: Any, weight_bits: Any, epilogue: int) -> fb.LinearT:
    table = fb.LinearT()
    table.x, table.bias = plan.read(x), plan.constant(bias)
    table.weight = plan.constant(weight, nibbles=_is_narrow(weight_bits))
    table.epilogue = epilogue
    return table


@emits("linear")
def emit_linear(plan: PlanBuilder, node: Node) -> fb.LinearT:
    """packqvit.linear."""
    x, weight, bias, multiplier, shift, weight_bits, *rest = node.args
    table = _linear(plan, x, weight, bias, weight_bits, fb.Epilogue.Requantize)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    return table


@emits_fused("linear", "lookup_table")
def emit_linear_table(plan: PlanBuilder, linear: Node, lookup: Node) -> fb.LinearT:
    """A lookup table in the epilogue of the linear before it."""
    table = emit_linear(plan, linear)
    table.table = plan.constant(lookup.args[1])
    return table


@emits("linear_add")
def emit_linear_add(plan: PlanBuilder, node: Node) -> fb.LinearT:
    """packqvit.linear_add."""
    x, weight, bias, multiplier, shift, residual, residual_multiplier, weight_bits, *rest = node.args
    table = _linear(plan, x, weight, bias, weight_bits, fb.Epilogue.AddResidual)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    table.residual, table.residualMultiplier = plan.read(residual), plan.constant(residual_multiplier)
    return table


@emits("linear_accumulate")
def emit_linear_accumulate(plan: PlanBuilder, node: Node) -> fb.LinearT:
    """packqvit.linear_accumulate."""
    x, weight, bias, weight_bits = node.args
    return _linear(plan, x, weight, bias, weight_bits, fb.Epilogue.Accumulate)


@emits("patch_embedding")
def emit_patch_embedding(plan: PlanBuilder, node: Node) -> fb.PatchEmbeddingT:
    """packqvit.patch_embedding."""
    x, weight, bias, multiplier, shift, position, prefix, height, width, weight_bits, *rest = node.args
    table = fb.PatchEmbeddingT()
    table.x, table.bias = plan.read_shaped(x), plan.constant(bias)
    table.weight = plan.constant(weight, nibbles=_is_narrow(weight_bits))
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    real = plan.constant_value(position)
    needs_none = plan.constant_value(prefix).dtype == torch.int16 and not bool(real.any())
    table.position = -1 if needs_none else plan.constant(position)
    table.prefix = plan.constant(prefix) if plan.constant_value(prefix).shape[0] else -1
    table.patchHeight, table.patchWidth = height, width
    return table


@emits("attention_scores")
def emit_attention_scores(plan: PlanBuilder, node: Node) -> fb.AttentionScoresT:
    """packqvit.attention_scores."""
    q, k, heads = node.args
    table = fb.AttentionScoresT()
    _set_queries(plan, table, q)
    table.k, table.heads = plan.read_shaped(k), heads
    return table


def _set_queries(plan: PlanBuilder, table: fb.AttentionScoresT | fb.AttentionT, q: Any) -> None:
    """Gives an operator its queries: a value, or a constant of all images."""
    if plan.is_constant(q):
        table.q, table.query = _NO_VALUE, plan.constant(q)
    else:
        table.q = plan.read_shaped(q)


def _format(log2: Any) -> int:
    return fb.ProbabilityFormat.Log2 if log2 else fb.ProbabilityFormat.Linear


def _set_softmax(plan: PlanBuilder, table: fb.SoftmaxT | fb.AttentionT, node: Node) -> None:
    """Gives an operator the bias, the masks and the numbers of a softmax."""
    bias, multiplier, shift, log2, *groups = node.args[1:]
    table.multiplier, table.shift = multiplier, shift
    if bias is not None:
        stored, table.biasShift = in_16_bits(plan.constant_value(bias))
        stored, index = by_index(stored)
        table.bias = plan.constants.add(stored)
        if index is not None:
            table.biasIndex = plan.constants.add(index)
    table.format = _format(log2)
    table.groups = plan.constant(groups[0] if groups else node.kwargs.get("groups"))


def _relative_bias(
    plan: PlanBuilder, numbers: Any, rows: Any, columns: Any, multiplier: Any, shift: Any
) -> fb.RelativeBiasT:
    table = fb.RelativeBiasT()
    table.numbers = plan.constant(numbers)
    table.rows, table.columns, table.multiplier, table.shift = rows, columns, multiplier, shift
    return table


@emits("add_relative_bias")
def emit_add_relative_bias(plan: PlanBuilder, node: Node) -> fb.AddRelativeBiasT:
    """packqvit.add_relative_bias."""
    scores, q, *relative = node.args
    table = fb.AddRelativeBiasT()
    table.x, table.q = plan.read(scores), plan.read_shaped(q)
    table.relative = _relative_bias(plan, *relative)
    return table


@emits("softmax")
def emit_softmax(plan: PlanBuilder, node: Node) -> fb.SoftmaxT:
    """packqvit.softmax."""
    table = fb.SoftmaxT()
    table.x = plan.read(node.args[0])
    _set_softmax(plan, table, node)
    return table


@emits("attention_values")
def emit_attention_values(plan: PlanBuilder, node: Node) -> fb.AttentionValuesT:
    """packqvit.attention_values."""
    p, v, multiplier, shift, log2, *rest = node.args
    table = fb.AttentionValuesT()
    table.probabilities, table.v = plan.read(p), plan.read_shaped(v)
    table.format = _format(log2)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    return table


def _has_equal_heads(scores: Node, values: Node) -> bool:
    """Whether the heads of v are as wide as those of q and k, which the fused kernels take for granted."""
    key: Any = scores.args[1]
    value: Any = values.args[1]
    return bool(key.meta["val"].shape == value.meta["val"].shape)


def _is_attention(scores: Node, softmax: Node, values: Node) -> bool:
    return touch(scores, softmax, values) and _has_equal_heads(scores, values)


@emits_fused("attention_scores", "softmax", "attention_values", where=_is_attention)
def emit_attention(plan: PlanBuilder, scores: Node, softmax: Node, values: Node) -> fb.AttentionT:
    """Attention without the matrices in between."""
    q, k, heads = scores.args
    _, v, multiplier, shift, _, *rest = values.args
    table = fb.AttentionT()
    _set_queries(plan, table, q)
    table.k, table.v, table.heads = plan.read_shaped(k), plan.read_shaped(v), heads
    _set_softmax(plan, table, softmax)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    return table


def _is_relative(scores: Node, relative: Node, softmax: Node, values: Node) -> bool:
    """Whether an attention can add the relative positions of its queries itself."""
    is_attention = relative.args[0] is scores and _has_equal_heads(scores, values) and touch(relative, softmax, values)
    return is_attention and relative.args[1] is scores.args[0]


@emits_fused("attention_scores", "add_relative_bias", "softmax", "attention_values", where=_is_relative)
def emit_relative_attention(
    plan: PlanBuilder, scores: Node, relative: Node, softmax: Node, values: Node
) -> fb.AttentionT:
    """Attention with relative positions."""
    table = emit_attention(plan, scores, softmax, values)
    table.relative = _relative_bias(plan, *relative.args[2:])
    return table


def _permutes(values: Node, select: Node) -> bool:
    """Whether the rows of an attention can be written where the tokens go: none is lost, none is there twice."""
    index: Any = select.args[1]
    _, tokens, channels = _shape(select.args[0])
    return sorted(index) == list(range(tokens)) and channels == _shape(values)[-1]


def _moves_results(scores: Node, softmax: Node, values: Node, select: Node) -> bool:
    return _is_attention(scores, softmax, values) and _permutes(values, select)


@emits_fused("attention_scores", "softmax", "attention_values", "select_tokens", where=_moves_results)
def emit_moving_attention(plan: PlanBuilder, scores: Node, softmax: Node, values: Node, select: Node) -> fb.AttentionT:
    """Attention that puts its rows where select_tokens would bring them: windows back to a map."""
    table = emit_attention(plan, scores, softmax, values)
    table.rows = _places(plan, select)
    return table


def _places(plan: PlanBuilder, select: Node) -> int:
    """The constant of where select_tokens brings each row."""
    return plan.constants.add(torch.tensor(select.args[1]).argsort().to(torch.int32))


def _moves_relative(scores: Node, relative: Node, softmax: Node, values: Node, select: Node) -> bool:
    return _is_relative(scores, relative, softmax, values) and _permutes(values, select)


@emits_fused(
    "attention_scores", "add_relative_bias", "softmax", "attention_values", "select_tokens", where=_moves_relative
)
def emit_moving_relative_attention(
    plan: PlanBuilder, scores: Node, relative: Node, softmax: Node, values: Node, select: Node
) -> fb.AttentionT:
    """Both."""
    table = emit_relative_attention(plan, scores, relative, softmax, values)
    table.rows = _places(plan, select)
    return table


def _layer_norm(
    plan: PlanBuilder, x: Any, channel_shift: Any, weight: Any, bias: Any, epsilon: Any, output_shift: Any
) -> fb.LayerNormT:
    table = fb.LayerNormT()
    table.x, table.channelShift = plan.read(x), plan.constant(channel_shift)
    table.weight, table.bias = plan.constant(weight), plan.constant(bias)
    table.epsilon, table.outputShift = epsilon, output_shift
    return table


@emits("layer_norm")
def emit_layer_norm(plan: PlanBuilder, node: Node, source: Any = None) -> fb.LayerNormT:
    """packqvit.layer_norm, of its first operand or of what that was selected from."""
    x, *operands, qmin, qmax = node.args
    table = _layer_norm(plan, x if source is None else source, *operands)
    table.qmin, table.qmax = qmin, qmax
    return table


@emits("layer_norm_add")
def emit_layer_norm_add(plan: PlanBuilder, node: Node) -> fb.LayerNormT:
    """packqvit.layer_norm_add."""
    x, channel_shift, weight, bias, residual, residual_multiplier, epsilon, output_shift, fraction_bits = node.args
    table = _layer_norm(plan, x, channel_shift, weight, bias, epsilon, output_shift)
    table.residual, table.residualMultiplier = plan.read(residual), plan.constant(residual_multiplier)
    table.fractionBits = fraction_bits
    return table


def _makes_rows(select: Node, norm: Node) -> bool:
    """Whether each row of an operator is made of whole rows of what the tokens are selected from, of one group."""
    index: Any = select.args[1]
    source: Any = select.args[0]
    channels, size = _shape(source)[-1], _shape(norm)[-1]
    whole = size % channels == 0 and len(index) % (size // channels) == 0
    if min(index) < 0 and any(select.args[2:]):  # a LayerNorm fills in codes 0
        return False
    written = behind_views(source)
    return whole and (_shape(written)[-1] == channels or operator_name(written) == "packqvit::quantize")


@emits_fused("select_tokens", "layer_norm", where=_makes_rows)
def emit_gathering_layer_norm(plan: PlanBuilder, select: Node, norm: Node) -> fb.LayerNormT:
    """A layer norm that reads its rows where they are: windows of a map, or four tokens side by side."""
    table = emit_layer_norm(plan, norm, source=select.args[0])
    table.rows = _source_rows(plan, select, norm)
    return table


def _source_rows(plan: PlanBuilder, select: Node, reader: Node) -> int:
    """The constant of the rows that each row of a group of the reader's is made of."""
    rows = torch.tensor(select.args[1], dtype=torch.int32)
    return plan.constants.add(rows.reshape(-1, _shape(reader)[-1] // _shape(select)[-1]))


@emits("head_norm")
def emit_head_norm(plan: PlanBuilder, node: Node) -> fb.HeadNormT:
    """packqvit.head_norm."""
    x, weight, bias, heads, centred, epsilon, output_shift, qmin, qmax = node.args
    table = fb.HeadNormT()
    table.x, table.weight, table.bias = plan.read(x), plan.constant(weight), plan.constant(bias)
    table.heads, table.centred = heads, centred
    table.epsilon, table.outputShift, table.qmin, table.qmax = epsilon, output_shift, qmin, qmax
    return table


@emits("rotate")
def emit_rotate(plan: PlanBuilder, node: Node) -> fb.RotateT:
    """packqvit.rotate."""
    x, cosine, sine, partner, multiplier, shift, left_shift, fraction_bits, qmin, qmax = node.args
    table = fb.RotateT()
    table.x, table.cosine, table.sine = plan.read_shaped(x), plan.constant(cosine), plan.constant(sine)
    table.partner = list(partner)  # type: ignore[arg-type]
    table.requantizer = _requantizer(plan, multiplier, shift, left_shift, fraction_bits, 0, qmin, qmax)
    return table


@emits("multiply")
def emit_multiply(plan: PlanBuilder, node: Node) -> fb.MultiplyT:
    """packqvit.multiply."""
    x, y, x_zero_point, y_zero_point, product_shift, multiplier, shift, *rest = node.args
    table = fb.MultiplyT()
    table.x, table.y = plan.read(x), plan.read(y)
    table.xZeroPoint, table.yZeroPoint, table.productShift = x_zero_point, y_zero_point, product_shift
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    return table


@emits("requantize")
def emit_requantize(plan: PlanBuilder, node: Node, source: Any = None) -> fb.RequantizeT:
    """packqvit.requantize, of its first operand or of what that was selected from."""
    x, multiplier, shift, *rest = node.args
    table = fb.RequantizeT()
    table.x = plan.read(x if source is None else source)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    return table


@emits("requantize_add")
def emit_requantize_add(plan: PlanBuilder, node: Node) -> fb.RequantizeAddT:
    """packqvit.requantize_add."""
    x, multiplier, shift, residual, residual_multiplier, *rest = node.args
    table = fb.RequantizeAddT()
    table.x, table.residual = plan.read(x), plan.read(residual)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)
    table.residualMultiplier = plan.constant(residual_multiplier)
    return table


@emits_fused("select_tokens", "requantize", where=_makes_rows)
def emit_gathering_requantize(plan: PlanBuilder, select: Node, requantize: Node) -> fb.RequantizeT:
    """A requantisation that reads its rows where they are, as a layer norm does."""
    table = emit_requantize(plan, requantize, source=select.args[0])
    table.rows = _source_rows(plan, select, requantize)
    return table


@emits("lookup_table")
def emit_lookup_table(plan: PlanBuilder, node: Node) -> fb.LookupTableT:
    """packqvit.lookup_table."""
    x, values = node.args
    table = fb.LookupTableT()
    table.x, table.table = plan.read(x), plan.constant(values)
    return table


@emits("repeat_tokens")
def emit_repeat_tokens(plan: PlanBuilder, node: Node) -> fb.RepeatTokensT:
    """packqvit.repeat_tokens; how many images there are is in the output's shape."""
    table = fb.RepeatTokensT()
    table.tokens = plan.constant(node.args[0])
    return table


@emits("join_tokens")
def emit_join_tokens(plan: PlanBuilder, node: Node) -> fb.JoinTokensT:
    """packqvit.join_tokens."""
    table = fb.JoinTokensT()
    table.x, table.y = plan.read_shaped(node.args[0]), plan.read_shaped(node.args[1])
    return table


@emits("select_tokens")
def emit_select_tokens(plan: PlanBuilder, node: Node) -> fb.SelectTokensT:
    """packqvit.select_tokens."""
    index: Any
    x, index, *fill = node.args
    table = fb.SelectTokensT()
    table.x, table.index = plan.read_shaped(x), [token if token >= 0 else _NO_TOKEN for token in index]
    table.fill = fill[0] if fill else 0
    return table


def _set_pooling(plan: PlanBuilder, table: fb.MeanTokensT | fb.MaxTokensT, node: Node) -> None:
    """Gives an operator that makes one token of all its operands and numbers."""
    x, bias, multiplier, shift, *rest = node.args
    table.x, table.bias = plan.read_shaped(x), plan.constant(bias)
    table.requantizer = _requantizer(plan, multiplier, shift, *rest)


@emits("mean_tokens")
def emit_mean_tokens(plan: PlanBuilder, node: Node) -> fb.MeanTokensT:
    """packqvit.mean_tokens."""
    table = fb.MeanTokensT()
    _set_pooling(plan, table, node)
    return table


@emits("max_tokens")
def emit_max_tokens(plan: PlanBuilder, node: Node) -> fb.MaxTokensT:
    """packqvit.max_tokens."""
    table = fb.MaxTokensT()
    _set_pooling(plan, table, node)
    return table


@emits("pixel_codes")
def emit_pixel_codes(plan: PlanBuilder, node: Node) -> fb.PixelCodesT:
    """packqvit.pixel_codes."""
    x, channels_last = node.args
    table = fb.PixelCodesT()
    table.x, table.channelsLast = plan.read_shaped(x), channels_last
    return table


@emits("top_k")
def emit_top_k(plan: PlanBuilder, node: Node) -> fb.TopKT:
    """packqvit.top_k; k is the last axis of the output."""
    table = fb.TopKT()
    table.x = plan.read(node.args[0])
    return table


@emits("take_scores")
def emit_take_scores(plan: PlanBuilder, node: Node) -> fb.TakeScoresT:
    """packqvit.take_scores."""
    x, index = node.args
    table = fb.TakeScoresT()
    table.x, table.index = plan.read(x), plan.read(index)
    return table
