"""Gives every operator that stays in float a reason of its own: what would have to be different."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from .codes import is_dequantize, is_quantize
from .graph import arguments, aten, has_tensor, is_call, is_constant, is_part, shape_of
from .integer.token_rules import moves_tokens
from .layout import is_layout
from .patterns import UNARY_FUNCTIONS
from .reasons import describe, listed, operator_of, origin, read_by, reason_of, set_reason

Sentence = Callable[[Node], str]
_SENTENCES: dict[object, Sentence] = {}

_PRODUCTS = (
    aten.matmul.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.mm.default,
    aten.einsum.default,
)
_SOFTMAXES = (aten.softmax.int, aten._softmax.default, aten.scaled_dot_product_attention.default)
_REPEATS = (aten.expand.default, aten.repeat.default, aten.to.dtype, aten.to.dtype_layout, aten._to_copy.default)


def explain(graph_module: GraphModule) -> GraphModule:
    """Completes the reasons of a lowered graph.

    What a pass decided keeps the reason that the pass gave. An operator between the products of an attention that
    stays in float has the reason of that attention; one that only moves values names what it stands between; all others
    are told by their kind.

    Args:
        graph_module: Integer graph; only `node.meta` changes.
    """
    floats = [node for node in graph_module.graph.nodes if stays(node)]
    for node in floats:
        if is_call(node, *_SOFTMAXES):
            _explain_attention(node)
    for node in floats:
        if reason_of(node) is None:
            set_reason(node, by_kind(node))
    return graph_module


def stays(node: Node) -> bool:
    """Whether a node of a lowered graph calls an operator that is none of the delegate's."""
    if node.op != "call_function" or is_part(node) or getattr(node.target, "namespace", "") == "packqvit":
        return False
    value = node.meta.get("val")
    moves_codes = is_layout(node) and isinstance(value, torch.Tensor) and not value.is_floating_point()
    return not (moves_codes or is_quantize(node) or is_dequantize(node))


def by_kind(node: Node) -> str:
    """Why an operator has no integer form, from what it is and where it stands."""
    if is_layout(node) or is_call(node, *_REPEATS):
        return _between(node)
    sentence = _SENTENCES.get(node.target)
    if sentence is not None:
        return sentence(node)
    operands = _computed(node)
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        if len(operands) > 1:
            return f"it computes with {listed(operands)}: {_TWO_TENSORS}"
        names = ", ".join(operator_of_function.removeprefix("aten.") for operator_of_function in _function_names())
        return (
            f"{operator_of(node)} is not one of the functions that run as a table of codes, each between a linear "
            f"layer and linear layers: {names}"
        )
    return (
        f"there is no integer operator for {operator_of(node)}: there are such for patch embeddings, linear layers, "
        "attention, LayerNorm, functions of one variable between linear layers, additions of linear layers into the "
        "residual stream, and selections and means of tokens"
    )


_TWO_TENSORS = (
    "two tensors that are computed at run time meet in integers only in an attention, and where the output of a linear "
    "layer is added into the residual stream"
)


def not_for_linears(value: Node) -> str:
    """Why a value gets no codes: something else than linear layers reads it."""
    others = [user for user in read_by(value) if not _is_constant_linear(user) and not is_call(user, aten.mean.dim)]
    return (
        f"its result is read by {listed(others or list(value.users)) or 'nothing'}: it gets codes only where linear "
        "layers with constant weights alone read it, directly, or whole tokens or the mean of tokens of it"
    )


def _is_constant_linear(node: Node) -> bool:
    return is_call(node, aten.linear.default) and all(is_constant(a) for a in node.args[1:] if a is not None)


def _function_names() -> list[str]:
    return [str(function.overloadpacket) for function in UNARY_FUNCTIONS if function.namespace == "aten"]


def _explains(*targets: object) -> Callable[[Sentence], Sentence]:
    def register(sentence: Sentence) -> Sentence:
        for target in targets:
            _SENTENCES[target] = sentence
        return sentence

    return register


def _computed(node: Node) -> list[Node]:
    """The operands that are computed at run time, constants left out, seen through moves."""
    return [origin(operand) for operand in node.all_input_nodes if has_tensor(operand) and not is_constant(operand)]


def _explain_attention(softmax: Node) -> None:
    if reason_of(softmax) is None:
        set_reason(
            softmax, "it is not the softmax of an attention softmax(scale * q k^T + constant) v of linear layers"
        )
    reason = f"it is part of the attention around {describe(softmax)}, which stays in float: {reason_of(softmax)}"
    for node in [*_region(softmax, lambda node: node.all_input_nodes), *_region(softmax, lambda node: node.users)]:
        if reason_of(node) is None and not is_layout(node):
            set_reason(node, reason)


def _region(softmax: Node, following: Callable[[Node], Any]) -> list[Node]:
    """The operators from a softmax to the next product of matrices on one side of it; none if there is no product."""
    if is_call(softmax, aten.scaled_dot_product_attention.default):
        return []
    found: dict[Node, None] = {}
    pending, has_product = list(following(softmax)), False
    while pending:
        node = pending.pop()
        if node in found or not stays(node) or is_call(node, aten.linear.default, *_SOFTMAXES):
            continue
        found[node] = None
        if is_call(node, *_PRODUCTS):
            has_product = True
        else:
            pending.extend(following(node))
    return list(found) if has_product else []


def _stay(nodes: list[Node]) -> str:
    return "stays" if len(set(map(describe, nodes))) == 1 else "stay"


def _between(node: Node) -> str:
    """What a node that only moves values stands between."""
    before = origin(node)
    while is_call(before, *_REPEATS):
        before = origin(before.args[0])  # type: ignore[arg-type]
    sources = [before] if stays(before) else []
    users = [user for user in read_by(node) if stays(user)]
    if sources and users:
        return f"it stands between {listed(sources)} and {listed(users)}, which stay in float"
    if users:
        return f"it moves values for {listed(users)}, which {_stay(users)} in float"
    if sources:
        return f"it moves the result of {listed(sources)}, which stays in float"
    if moves_tokens(node):
        return (
            f"its result is read by {listed(read_by(node)) or 'nothing'}: whole tokens move as codes only where an "
            "operator of the delegate reads them"
        )
    return (
        f"{operator_of(node)} takes the tokens of {describe(origin(node))} apart: codes move only as whole tokens, all "
        "their channels together"
    )


@_explains(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar)
def _addition(node: Node) -> str:
    operands = _computed(node)
    subtracts = "sub" in operator_of(node)
    if len(operands) > 1:
        return (
            f"it {'subtracts' if subtracts else 'adds'} {listed(operands)}: only the output of a linear layer, which "
            "nothing else reads, can be added into a residual stream of the same shape"
        )
    does = "subtracts a constant from" if subtracts else "adds a constant to"
    return (
        f"it {does} {listed(operands)}: constants are added only in a patch embedding (positions), to "
        "the scores of an attention, and as biases of linear layers"
    )


@_explains(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
def _product(node: Node) -> str:
    operands = _computed(node)
    if len(operands) > 1 or len(node.all_input_nodes) > 1 and not any(map(is_constant, node.all_input_nodes)):
        return f"it multiplies or divides {listed(operands)}: {_TWO_TENSORS}"
    return (
        f"it multiplies or divides {listed(operands)} by a constant: a factor is folded only into a linear layer right "
        "in front of it that nothing else reads, and into the scores of an attention"
    )


@_explains(*_PRODUCTS)
def _matrix_product(node: Node) -> str:
    return (
        f"it is the matrix product of {listed(_computed(node))}: such a product runs in integers only as q k^T or as "
        "probabilities @ v of an attention softmax(scale * q k^T + constant) v, and with constant weights as a linear "
        "layer"
    )


@_explains(aten.conv2d.default, aten.conv2d.padding, aten.convolution.default)
def _convolution(node: Node) -> str:
    given, differs = arguments(node), []
    kernel = list(shape_of(given["weight"]))[2:]
    for name, wanted in (("stride", kernel), ("padding", [0] * len(kernel)), ("dilation", [1] * len(kernel))):
        found = given[name]
        sizes = found if isinstance(found, str) else [*found] * (len(kernel) // len(found))
        if sizes != wanted:
            differs.append(f"{name} {found if isinstance(found, str) else sizes}, not {wanted}")
    if given["groups"] != 1:
        differs.append(f"{given['groups']} groups, not 1")
    if not isinstance(given["input"], Node) or origin(given["input"]).op != "placeholder":
        differs.append(f"its input from {describe(origin(given['input']))}, not from the model's input")
    patches = "a convolution runs in integers only as the patch embedding, which cuts the image into patches (stride = "
    if differs:
        return f"{patches}kernel, no padding): this one has a kernel of {kernel} and {', '.join(differs)}"
    return (
        f"{patches}kernel) and makes tokens of them (flatten, transpose, class token, positions): this one's result is "
        f"read by {listed(read_by(node))}"
    )


@_explains(aten.cat.default, aten.stack.default)
def _concatenation(node: Node) -> str:
    return (
        f"it joins {listed(_computed(node)) or 'constants'}: only constant tokens in front of the patches of an "
        "embedding are joined in integers"
    )


@_explains(aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)
def _batch_norm(node: Node) -> str:
    return (
        f"there is no integer BatchNorm: fold it into the layer in front of it, "
        f"{listed(_computed(node)) or 'a constant'}, ahead of the export (torch.nn.utils.fusion)"
    )


@_explains(
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
)
def _pooling(node: Node) -> str:
    return (
        f"there is no integer operator for {operator_of(node)} over height and width: of pooling, only the mean "
        "over the tokens of [batch, tokens, channels] (dim=1) runs in integers"
    )


@_explains(aten.rms_norm.default)
def _rms_norm(node: Node) -> str:
    return (
        f"it normalises {listed(_computed(node))}: an RMSNorm runs in integers only over the channels of each head of "
        "q or k of an attention, right behind their linear layers"
    )


@_explains(aten.layer_norm.default, aten.mean.dim, *UNARY_FUNCTIONS)
def _read_by_others(node: Node) -> str:
    return not_for_linears(node)
