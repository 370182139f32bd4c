"""Turns a converted graph (q/dq nodes around float operators) into one of integer operators."""

from __future__ import annotations

import copy

import torch
from torch.fx import GraphModule, Node

from packqvit_delegate.errors import PlanError
from packqvit_delegate.grids import AffineGrid, Grid, OffsetGrid, ResidualGrid, values_of

from .affine import Affine, read_affine, varying_axes
from .codes import codes_of_constant, is_dequantize, is_quantize
from .explain import explain
from .graph import (
    add_constant,
    aten,
    call,
    clean_up,
    compiled_once,
    complete_modules,
    find,
    has_tensor,
    is_call,
    replacing,
    shape_of,
)
from .hoist_token_select import hoist_token_select
from .integer.context import FLOAT_NAME, GRID, RULES, Codes, LoweringContext, NotLowered, grid_of, output_codes
from .integer.linear_rules import linear_operands
from .integer.outputs import Leaving, dequantized, leave_behind_moves, leaving
from .integer.token_rules import move_tokens, moves_tokens
from .layout import RESHAPES, is_layout, trace
from .normalize_unary import spell_out
from .originals import forget_original, original_of
from .propagate_values import propagate_values
from .reasons import describe, name_cause, set_reason
from .select_before_norm import select_before_norm
from .short_stretches import short_stretches
from .spell_group_norms import spell_group_norms

ops = torch.ops.packqvit


def lower_to_integer(graph_module: GraphModule, *, has_fallback: bool = False) -> GraphModule:
    """Replaces everything between quantisers by `packqvit::*` operators on codes.

    Before: dequantize -> layer_norm / linear / softmax / ... -> quantize
    After:  packqvit.layer_norm / linear / softmax / ... on int8, int16 and int32 tensors

    A float operator without an integer counterpart stays; the codes around it are dequantised and quantised, and its
    reason is kept with it (passes/reasons.py).

    Args:
        graph_module: Result of convert_pt2e with PackQViTQuantizer; changed in place.
        has_fallback: Another backend gets what stays in float. Then integer operators stay in float too where they have
            too little to compute for what they convert (passes/short_stretches.py), and GroupNorms are spelled in
            operators that backends have (passes/spell_group_norms.py).

    Returns:
        The integer graph: it runs eagerly, and its bits are what the delegate produces.

    Raises:
        PackQViTError: A constant cannot be expressed in integers (NaN, out of range).
    """
    propagate_values(graph_module)
    if not has_fallback:
        return _lower(graph_module, {})
    before = GraphModule(graph_module, copy.deepcopy(graph_module.graph))
    integer = _lower(graph_module, {})
    if kept := short_stretches(integer):
        integer = _lower(before, kept)
    return spell_group_norms(integer)


def _lower(graph_module: GraphModule, kept: dict[str, str]) -> GraphModule:
    """As lower_to_integer, but nodes whose names are in `kept` stay in float."""
    context = LoweringContext(graph_module, kept=kept)
    for node in list(graph_module.graph.nodes):
        if is_quantize(node):
            _lower_quantized(context, node)
        elif moves_tokens(node):
            _move(context, node)
    accumulators: dict[Node, Leaving] = {}
    for node in find(graph_module, aten.linear.default):
        _lower_float_output(context, node, accumulators)
    for node in list(graph_module.graph.nodes):
        if is_layout(node) and has_tensor(node):
            leave_behind_moves(context, node, accumulators)
    for node in list(graph_module.graph.nodes):
        if is_dequantize(node):
            _replace_dequantize(context, node)
    for node in find(graph_module, ops.activation.default):  # what is left of them concerns float operators
        with replacing(graph_module, node):
            product = call(graph_module, aten.mul.Tensor, *node.args) if len(node.args) > 1 else node.args[0]
        node.replace_all_uses_with(product)  # type: ignore[arg-type]
    for value, codes in context.codes.items():
        codes.node.meta[GRID], codes.node.meta[FLOAT_NAME] = codes.grid, value.name
    for codes in context.codes.values():
        _name_reshaped(codes.node)
    for node in graph_module.graph.nodes:
        forget_original(node)
    for node, reason in context.reasons.items():
        set_reason(node, str(reason))
        name_cause(node, reason.cause)
    with compiled_once(graph_module):
        clean_up(spell_out(clean_up(graph_module)))
        hoist_token_select(graph_module)
        select_before_norm(graph_module)
        return explain(complete_modules(graph_module))


def _name_reshaped(node: Node) -> None:
    """Says of an operator too what its codes mean, where only a reshape of them stands for the float value.

    Attention in windows gives the rows of each window, the mean over tokens one of them. Such a reshape may go.
    """
    while is_call(node, aten.reshape.default):
        operator = node.args[0]
        assert isinstance(operator, Node)
        if FLOAT_NAME in operator.meta or shape_of(operator)[-1] != shape_of(node)[-1]:
            return
        operator.meta.update({key: node.meta[key] for key in (GRID, FLOAT_NAME)})
        node = operator


def _lower_quantized(context: LoweringContext, quantize: Node) -> None:
    value = quantize.args[0]
    assert isinstance(value, Node)
    if value.op == "get_attr" or context.keeps(value):
        return
    grid = grid_of(quantize, context)
    with context.graph_module.graph.inserting_before(quantize):
        rule = RULES.get(value.target)
        if rule is not None:
            try:
                context.codes[value] = rule(context, value, grid)
                return
            except NotLowered as reason:
                if str(reason):
                    context.reasons[value] = reason
            except PlanError as error:
                raise PlanError(_named(value, error)) from error
        codes = quantize_float(context, value, grid)
        if codes is not None:
            context.codes[value] = codes


def _named(node: Node, error: PlanError) -> str:
    """What an error says, with the operator and its module in front where it names none."""
    return str(error) if str(error).startswith("aten.") else f"{describe(node)}: {error}"


def quantize_float(context: LoweringContext, value: Node, grid: Grid) -> Codes | None:
    """packqvit.quantize of a float value: the input of the model, or what a float operator left outside produces.

    Constant factors and summands in front of it, as positions and the normalisation of pixels are, become part of it.
    """
    source = value
    if isinstance(grid, OffsetGrid):
        scale, offset, qmin, qmax = torch.tensor([grid.scale], dtype=torch.float64), grid.offset, -128, 127
        if is_call(value, aten.mul.Tensor):  # passes/fold_input_normalization.py: undone by a scale per channel
            source = value.args[0]  # type: ignore[assignment]
            ratio = context.tensor(value.args[1]).double().flatten()
            scale, offset = scale / ratio, offset / ratio
        return _quantize(context, value, grid, source, scale, offset, 1, (qmin, qmax))
    if not isinstance(grid, (AffineGrid, ResidualGrid)):
        return None
    channels = shape_of(value)[-1]
    scale, zero_point, qmin, qmax = output_codes(grid, channels)
    if is_call(value, ops.activation.default):
        scale = scale / context.tensor(value.args[1]).double() if len(value.args) > 1 else scale
    found = read_by_quantizer(context.graph_module, value)
    rank = len(shape_of(value))
    scale = scale if bool((scale != scale[0]).any()) else scale[:1]
    steps = scale.reshape([1] * (rank - 1) + [-1])
    offset = (-zero_point * steps - found.offset) / found.factor
    first, end = varying_axes(steps / found.factor, offset)
    steps, offset = (_of_axes(number, shape_of(value), first, end) for number in (steps / found.factor, offset))
    axis = first - rank if end else -1
    source = behind_reshapes(found.source)
    if end and shape_of(source)[axis:] != shape_of(value)[axis:]:
        source = found.source
    return _quantize(context, value, grid, source, steps, offset, axis, (qmin, qmax))


def read_by_quantizer(graph_module: GraphModule, value: Node) -> Affine:
    """What a quantiser reads for a value: what is in front of an `activation`, and of constant factors and summands.

    Constants that differ between the images of a batch stay where they are, and so does what follows codes.
    """
    source: Node = value.args[0] if is_call(value, ops.activation.default) else value  # type: ignore[assignment]
    found = read_affine(graph_module, source)
    first, end = varying_axes(found.factor, found.offset)
    if is_dequantize(found.source) or bool((found.factor == 0).any()) or (end and first == 0):
        return read_affine(graph_module, source, steps=0)
    return found


def behind_reshapes(value: Node) -> Node:
    """The value of another shape that a float value is, if it is no value of codes."""
    base, _ = trace(value, lambda node: is_call(node, *RESHAPES))
    return value if is_dequantize(base) else base


def _of_axes(values: torch.Tensor, shape: tuple[int, ...], first: int, end: int) -> torch.Tensor:
    """What varies along some axes, of their sizes; what does not, of one element."""
    if values.numel() == 1:
        return values.reshape(1)
    return values.reshape(values.shape[first:end]).expand(shape[first:end])


def _quantize(
    context: LoweringContext,
    value: Node,
    grid: Grid,
    source: Node,
    scale: torch.Tensor,
    offset: torch.Tensor,
    axis: int,
    codes: tuple[int, int],
) -> Codes:
    inverse = context.constant(f"{value.name}_inverse_scale", (1.0 / scale).float().contiguous())
    offset_node = context.constant(f"{value.name}_offset", offset.float().contiguous())
    axis %= len(shape_of(source))
    node = context.call(ops.quantize.default, (source, inverse, offset_node, axis, *codes), value)
    if shape_of(source) != shape_of(value):
        node = context.call(aten.reshape.default, (node, list(shape_of(value))), value)
    return Codes(node, grid)


def _move(context: LoweringContext, node: Node) -> None:
    if node in context.codes or context.keeps(node):
        return
    with context.graph_module.graph.inserting_before(node):
        moved = move_tokens(context, node)
    if moved is not None:
        context.codes[node] = moved


def _lower_float_output(context: LoweringContext, node: Node, accumulators: dict[Node, Leaving]) -> None:
    if node in context.codes or context.keeps(node):
        return
    with context.graph_module.graph.inserting_before(node):
        try:
            value = float_output(context, node)
        except NotLowered as reason:
            if str(reason):
                context.reasons.setdefault(node, reason)
            return
        except PlanError as error:
            raise PlanError(_named(node, error)) from error
        result = dequantized(context, value, node)
    accumulators[result] = value
    node.replace_all_uses_with(result)


def float_output(context: LoweringContext, node: Node) -> Leaving:
    """The integer accumulators of a linear whose result is wanted in float.

    Raises:
        NotLowered: Its input or its weight has no codes.
    """
    x, layer = linear_operands(context, node)
    weight, bias = layer.constants(context, node.name)
    accumulator = context.call(ops.linear_accumulate.default, (x.node, weight, bias, layer.bits), node)
    return Leaving(accumulator, layer.scales.float())


def _replace_dequantize(context: LoweringContext, node: Node) -> None:
    """For float consumers that remain: real values of the codes, or the unquantised value where there are none."""
    quantize = node.args[0]
    assert isinstance(quantize, Node)
    if not is_quantize(quantize):
        _restore_constant(context, node)
        return
    value = quantize.args[0]
    assert isinstance(value, Node)
    codes = leaving(context.codes.get(value))
    if codes is None:
        node.replace_all_uses_with(value)
        return
    with context.graph_module.graph.inserting_before(node):
        result = dequantized(context, codes, value)
    node.replace_all_uses_with(result)


def _restore_constant(context: LoweringContext, dequantize: Node) -> None:
    """The float values of quantised weights, or queries, for the float operators that they stay with.

    Weights are as they were before they were rounded, where anybody remembers that.
    """
    for node in list(dequantize.users):
        original = original_of(node)
        is_weight = len(node.args) > 1 and node.args[1] is dequantize
        if original is None or not is_weight or node in context.codes or not node.users:  # what is in integers goes
            continue
        weight, bias = original
        with context.graph_module.graph.inserting_before(node):
            node.update_arg(1, add_constant(context.graph_module, weight, f"{node.name}_weight"))
            if bias is not None:
                node.update_arg(2, add_constant(context.graph_module, bias, f"{node.name}_bias"))
    if not dequantize.users:
        return
    if codes_of_constant(dequantize) is not None:
        values = values_of(*context.shared_codes(dequantize))
    else:
        codes, scales, _ = context.weight(dequantize)
        values = (codes * scales.reshape(-1, *[1] * (codes.ndim - 1))).float()
    with context.graph_module.graph.inserting_before(dequantize):
        constant = add_constant(context.graph_module, values, f"{dequantize.name}_values")
    dequantize.replace_all_uses_with(constant)
