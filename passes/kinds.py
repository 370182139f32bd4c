"""Why an operator has no integer form, from its kind and its place: what in the model would have to be different."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.fx import Node

from .codes import skip_codes
from .graph import arguments, aten, has_tensor, is_call, is_constant, shape_of
from .integer.token_rules import moves_tokens
from .layout import is_layout, moved_rows
from .patterns import POOLINGS, UNARY_FUNCTIONS, pools_tokens, reads_as_linear
from .reasons import describe, is_integer, listed, operator_of, origin, read_by, stays

Sentence = Callable[[Node], str]
_SENTENCES: dict[object, Sentence] = {}

PRODUCTS = (
    aten.matmul.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.mm.default,
    aten.einsum.default,
)
SOFTMAXES = (aten.softmax.int, aten._softmax.default, aten.scaled_dot_product_attention.default)
_REPEATS = (
    aten.expand.default,
    aten.expand_as.default,
    aten.repeat.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten._to_copy.default,
)


_TABLE = (
    "to run as a table of codes, it would have to be finite, and to stand between one linear layer, which nothing else "
    "reads, and linear layers"
)


def is_move(node: Node) -> bool:
    """Whether a node only moves, repeats or converts values."""
    return is_layout(node) or is_call(node, *_REPEATS)


def by_kind(node: Node) -> str:
    """Why an operator has no integer form, from what it is and where it stands."""
    sentence = _SENTENCES.get(node.target) or _FAMILIES.get(operator_of(node).removeprefix("aten."))
    if sentence is not None:
        return sentence(node)
    name, operands = operator_of(node), _computed(node)
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        if len(operands) > 1:
            return f"{name} computes with {listed(operands)}: {_not_two(node)}{_elsewhere(node)}"
        return f"{name} is a function of one variable: {_TABLE}; {_not_between(node, operands)}{_elsewhere(node)}"
    if not operands:
        return f"{name} is not computed from the model's input: a constant (a buffer) would have to be in its place"
    return (
        f"there is no integer operator for {name}: the model would have to do without it between "
        f"{listed(operands)} and {listed(read_by(node)) or 'nothing'}{_elsewhere(node)}"
    )


def between(node: Node) -> tuple[str, Node | None]:
    """What a node that only moves values stands between, and which of these has the reason for both."""
    before = origin(node)
    while is_call(before, *_REPEATS):
        before = origin(before.args[0])  # type: ignore[arg-type]
    sources = [before] if stays(before) else []
    users = [user for user in read_by(node) if stays(user)]
    if sources and users:
        return f"it stands between {listed(sources)} and {listed(users)}, which stay in float", before
    if users:
        verb = "stays" if len(set(map(describe, users))) == 1 else "stay"
        return f"it moves values for {listed(users)}, which {verb} in float", users[0]
    if sources:
        return f"it moves the result of {listed(sources)}, which stays in float", before
    if embeddings := [user for user in read_by(node) if is_call(user, torch.ops.packqvit.patch_embedding.default)]:
        return (
            f"it makes an image of the tokens of {describe(before)} for {listed(embeddings)}, and tokens do not become "
            "an image again in integers: the model would have to stay with the tokens of one patch embedding",
            None,
        )
    if moves_tokens(node) and all(user.op == "output" for user in read_by(node)):
        return (
            f"it moves tokens of {describe(before)} to the model's output, which is in float: a linear layer, or a "
            "LayerNorm and one, would have to stand between; or it runs behind the program",
            None,
        )
    if moves_tokens(node):
        return (
            f"its result is read by {listed(read_by(node)) or 'nothing'}: whole tokens move as codes only where an "
            "integer operator reads them; a linear layer, or a LayerNorm and one, would have to stand between",
            None,
        )
    return (
        f"{operator_of(node)} takes the tokens of {describe(before)} apart: codes move only as whole tokens, so that "
        f"the last axis, the channels, would have to stay whole as far as {listed(read_by(node)) or 'nothing'}"
    ), None


def without_codes(value: Node) -> str:
    """Why a LayerNorm or a mean gets no codes: what it reads has none."""
    return (
        f"its input comes from {describe(input_of(value))}, which has no integer codes: that, or a linear layer behind "
        "it, would have to run in integers"
    )


def input_of(value: Node) -> Node:
    """What an operator reads first, seen through moves."""
    return origin(value.args[0])  # type: ignore[arg-type]


def not_for_linears(value: Node) -> str:
    """Why the result of a function of one variable gets no codes: something else than linear layers reads it."""
    others = [user for user in read_by(value) if not reads_as_linear(user) and not pools_tokens(user)]
    needed = (
        "only linear layers with constant weights would have to read it, or whole tokens of it, their mean or their "
        "maximum"
    )
    if others and not all(other.op == "output" for other in others):
        return f"its result is read by {listed(others)}: to get codes, {needed}"
    apart = _taken_apart(value)
    if apart is not None:
        return f"the channels of its tokens are taken apart by {describe(apart)}: to get codes, {needed}"
    return f"its result is read by {listed(list(value.users)) or 'nothing'}: to get codes, {needed}"


def _taken_apart(value: Node) -> Node | None:
    """The first move of a value behind which its rows are no longer whole."""
    waiting = [value]
    while waiting:
        for user in waiting.pop().users:
            if is_layout(user) and has_tensor(user):
                if moved_rows(value, user) is None:
                    return user
                waiting.append(user)
    return None


def _is_linear(node: object) -> bool:
    """Before the lowering, or after it where the result is wanted in float."""
    integer = (torch.ops.packqvit.linear.default, torch.ops.packqvit.linear_accumulate.default)
    return is_call(node, aten.linear.default, *integer)


def _computed(node: Node) -> list[Node]:
    """The operands that are computed at run time, constants left out, seen through moves."""
    return [origin(operand) for operand in node.all_input_nodes if not is_constant(skip_codes(operand))]


def _is_first(node: Node) -> bool:
    """Whether no integer operator is in front of a node."""
    return not _meets_integers(node, lambda passed: passed.all_input_nodes)


def _is_last(node: Node) -> bool:
    """Whether no integer operator is behind a node."""
    return not _meets_integers(node, lambda passed: list(passed.users))


def _meets_integers(node: Node, following: Callable[[Node], list[Node]]) -> bool:
    seen, waiting = {node}, [node]
    while waiting:
        for other in following(waiting.pop()):
            if is_integer(other):
                return True
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return False


def _elsewhere(node: Node) -> str:
    """Where an application could compute an operator that is in front of all integers, or behind all of them."""
    if not any(map(is_integer, node.graph.nodes)):
        return ""  # before the lowering nothing is known of places
    if _is_first(node):
        return "; or all that is in front of the integers runs ahead of the program"
    if _is_last(node):
        return f"; or it runs behind the program, which then gives out {listed(_computed(node)) or 'what it reads'}"
    return ""


def _not_two(node: Node) -> str:
    """Why two operands do not meet in integers."""
    variable, differs = _one_variable(node)
    if variable is not None and differs:
        return (
            f"with what is in front, it is a function of {describe(origin(variable))} alone, but with constants that "
            "differ between channels: they would have to be one number for all channels, so that it runs as a table of "
            "codes between one linear layer and linear layers"
        )
    if variable is not None:
        return (
            f"with what is in front, it is a function of {describe(origin(variable))} alone: {_TABLE}; "
            f"{_not_between(node, [origin(variable)])}"
        )
    return (
        "two tensors that are computed at run time meet in integers only in an attention, and where a linear layer's "
        "output is added into the residual stream, so that one of the two would have to be constant"
    )


def _not_between(node: Node, sources: list[Node]) -> str:
    """Where a function stands that is no table."""
    others = [other for source in sources if _is_linear(source) for other in read_by(source)]
    also = f", which {listed(others)} read" if len(others) > 1 else ""
    return f"here it stands between {listed(sources) or 'constants'}{also} and {listed(read_by(node)) or 'nothing'}"


def _one_variable(node: Node) -> tuple[Node | None, bool]:
    """The one value that a node is a function of, element by element, such as x in x * sigmoid(1.702 * x).

    And whether constants that differ between channels are part of the function.
    """
    sources, seen, waiting, differs = set(), {node}, [node], False
    while waiting:
        for operand in waiting.pop().all_input_nodes:
            if is_constant(operand):
                differs = differs or math.prod(shape_of(operand)) > 1
            elif operand not in seen:
                seen.add(operand)
                is_step = torch.Tag.pointwise in getattr(operand.target, "tags", ())
                if is_step and shape_of(operand) == shape_of(node):
                    waiting.append(operand)
                else:
                    sources.add(operand)
    (variable,) = sources if len(sources) == 1 else (None,)
    return (variable if variable is None or variable.op == "call_function" else None), differs


def _explains(*targets: object) -> Callable[[Sentence], Sentence]:
    def register(sentence: Sentence) -> Sentence:
        for target in targets:
            _SENTENCES[target] = sentence
        return sentence

    return register


@_explains(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar)
def _addition(node: Node) -> str:
    operands = _computed(node)
    subtracts = "sub" in operator_of(node)
    if len(operands) > 1:
        not_met = _no_branch(node, operands) if _one_variable(node)[0] is None else _not_two(node)
        return f"it {'subtracts' if subtracts else 'adds'} {listed(operands)}: {not_met}{_elsewhere(node)}"
    does = "subtracts a constant from" if subtracts else "adds a constant to"
    (source,) = operands or [node]
    return (
        f"it {does} what comes from {_what(source)}: that would have to be a linear layer, whose bias takes the "
        f"constant, the convolution of a patch embedding or the scores of an attention{_elsewhere(node)}"
    )


def _what(source: Node) -> str:
    if _is_linear(source):
        others = len(read_by(source)) > 1
        return f"{describe(source)}, {'which others read too' if others else 'whose channels are moved in between'}"
    if is_call(source, *_CONVOLUTIONS):
        return f"{describe(source)}, which is no patch embedding"
    return describe(source)


def _no_branch(node: Node, operands: list[Node]) -> str:
    """Why none of two operands is a branch of the residual stream."""
    shapes = [list(shape_of(operand)) for operand in node.all_input_nodes if has_tensor(operand)]
    linears = [operand for operand in operands if _is_linear(operand)]
    needed = "one of the two would have to be the output of a linear layer, which nothing else reads, and of one shape"
    if not linears:
        return f"{needed} with the other, but neither is a linear layer's"
    if len(shapes) > 1 and shapes[0] != shapes[1]:
        return f"{needed} with the other, but their shapes are {shapes[0]} and {shapes[1]}"
    if len(linears) == len(operands):
        return "both are outputs of linear layers: one of them would have to be a residual stream"
    (linear,) = linears[:1]
    readers = [reader for reader in read_by(linear) if reader is not node]
    if readers:
        return f"{needed} with the other, but {describe(linear)} is also read by {listed(readers)}"
    moves = [operand for operand in node.all_input_nodes if is_layout(operand) and origin(operand) is linear]
    return f"{needed} with the other, but {describe(linear)} is moved by {listed(moves) or 'others'} in between"


@_explains(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar)
def _product(node: Node) -> str:
    operands = _computed(node)
    does = "divides" if "div" in operator_of(node) else "multiplies"
    if len(operands) > 1:
        return f"it {does} {listed(operands)}: {_not_two(node)}{_elsewhere(node)}"
    (source,) = operands or [node]
    readers, others = read_by(node), [reader for reader in read_by(source) if reader is not node]
    behind = f", or in those of {listed(readers)} behind it" if all(map(_is_linear, readers)) and readers else ""
    place = "a linear layer right in front of it"
    if _is_linear(source) and others:
        place = f"{describe(source)}, which nothing but it would have to read: {listed(others)} reads that too"
    elif _is_linear(source):
        place = f"{describe(source)} right in front of it"
    else:
        place = f"{place}, and there is {_what(source)}"
    return (
        f"it {does} {listed(operands)} by a constant: the constant would have to be in the weights of {place}{behind}"
        f"{_elsewhere(node)}"
    )


@_explains(*PRODUCTS)
def _matrix_product(node: Node) -> str:
    return (
        f"it is the matrix product of {listed(_computed(node))}: it would have to be q k^T or probabilities @ v of an "
        "attention softmax(scale * q k^T + constant) v, or the product with constant weights of a linear layer"
    )


@_explains(*SOFTMAXES)
def _softmax(node: Node) -> str:
    return (
        f"{operator_of(node)} of {listed(_computed(node))} is no attention's: a product with values v of linear layers "
        f"would have to follow{_elsewhere(node)}"
    )


_CONVOLUTIONS = (aten.conv2d.default, aten.conv2d.padding, aten.convolution.default)


@_explains(*_CONVOLUTIONS)
def _convolution(node: Node) -> str:
    given, differs = arguments(node), []
    kernel = list(shape_of(given["weight"]))[2:]
    for name, wanted in (("stride", kernel), ("padding", [0] * len(kernel)), ("dilation", [1] * len(kernel))):
        found = given[name]
        sizes = found if isinstance(found, str) else [*found] * (len(kernel) // len(found))
        if sizes != wanted:
            differs.append(f"{name} {wanted}, not {found if isinstance(found, str) else sizes}")
    if given["groups"] != 1:
        differs.append(f"1 group, not {given['groups']}")
    if kernel == [1] * len(kernel) and given["groups"] == 1:
        source = _computed(node)[:1]
        return (
            f"its kernel is one pixel, so that it would have to be a linear layer (nn.Linear) over the last axis of "
            f"[batch, tokens, channels], between {listed(source) or 'a constant'} and {listed(read_by(node))}"
        )
    patches = "a convolution runs in integers only as the patch embedding, which cuts the image into patches (stride = "
    readers = [user for user in node.users if not is_move(user)]
    tokens = f"; its result, which {listed(readers)} reads, would have to become tokens" if readers else ""
    if differs:
        return (
            f"{patches}kernel, no padding): with a kernel of {kernel}, this one would have to have {', '.join(differs)}"
            f"{tokens}"
        )
    return (
        f"{patches}kernel) and makes tokens of them (flatten, transpose, class token, positions): this one's result "
        f"would have to become tokens of the residual stream, but is read by {listed(read_by(node))}"
    )


@_explains(aten.cat.default, aten.stack.default)
def _concatenation(node: Node) -> str:
    operands, readers = _computed(node), read_by(node)
    if len(operands) > 1 and readers and all(is_call(reader, aten.sum.dim_IntList) for reader in readers):
        return (
            f"it joins {listed(operands)} for {listed(readers)} to add them up: they would have to be added one after "
            "the other, x + a + b, each the output of a linear layer"
        )
    axis = arguments(node).get("dim", 0) % max(len(shape_of(node)), 1)
    instead = "they would have to be one tensor from the patch embedding on"
    if all(reader.op == "output" for reader in readers):
        instead = "the model would have to give each out by itself"
    elif axis == len(shape_of(node)) - 1:
        instead = (
            f"{listed(readers)} would have to be linear layers that read each by itself, with its part of the weights, "
            "and their outputs to be added"
        )
    if len(operands) > 1:
        return (
            f"it joins {listed(operands)}, all computed at run time, and only constant tokens are joined in integers, "
            f"in front of the patches of an embedding: {instead}{_elsewhere(node)}"
        )
    source = listed(operands) or "constants"
    return (
        f"it puts constant tokens beside {source}: that would have to be the patches of an embedding (convolution, "
        "flatten, transpose, positions), with the constants in front of them"
    )


@_explains(aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default)
def _batch_norm(node: Node) -> str:
    """With constant statistics it would be in the weights of the layer in front of it: fold_batch_norm."""
    return (
        f"it normalises {listed(_computed(node))} by statistics that are computed at run time: they would have to be "
        f"constants, as those of model.eval() are{_elsewhere(node)}"
    )


@_explains(
    aten.max_pool2d.default,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool2d.default,
)
def _pooling(node: Node) -> str:
    batch, channels, *sizes = before = list(shape_of(node.all_input_nodes[0]))
    tokens, to_one = math.prod(sizes), set(shape_of(node)[2:]) == {1}
    instead = (
        f"mean(1) or amax(1) of the {tokens} tokens [{batch}, {tokens}, {channels}] would have to"
        if to_one
        else "windows are pooled in integers nowhere, so that a patch embedding with larger patches would have to"
    )
    return (
        f"it pools {before} of {listed(_computed(node))} over height and width: {instead} be in its place"
        f"{_elsewhere(node)}"
    )


@_explains(aten.layer_norm.default, *POOLINGS)
def _reads_no_codes(node: Node) -> str:
    return without_codes(node)


@_explains(*UNARY_FUNCTIONS)
def _read_by_others(node: Node) -> str:
    return not_for_linears(node)


def _pad(node: Node) -> str:
    if all(operand.op == "placeholder" for operand in _computed(node)):
        return "it pads the model's input: the images would have to be padded ahead of the program"
    return (
        f"it pads {listed(_computed(node))} for {listed(read_by(node))}: nothing is padded in integers, "
        f"so that sizes would have to be chosen that need no padding{_elsewhere(node)}"
    )


def _group_norm(node: Node) -> str:
    given = arguments(node)
    groups = given.get("num_groups", given.get("group"))
    return (
        f"it normalises {listed(_computed(node))} in {groups} groups of channels over height and width: "
        "only the channels of each token are normalised in integers, so that a LayerNorm over the last axis of [batch, "
        f"tokens, channels], which linear layers read, would have to be in its place{_elsewhere(node)}"
    )


def _extremum(node: Node) -> str:
    return (
        f"{operator_of(node)} takes one of many values of {listed(_computed(node))}: the maximum or the mean over the "
        "tokens of [batch, tokens, channels] (dim=1), without their places, or one token, would have to be in its place"
        f"{_elsewhere(node)}"
    )


def _sum(node: Node) -> str:
    operands = _computed(node)
    if all(is_call(operand, aten.cat.default, aten.stack.default) for operand in operands):
        joined = list(dict.fromkeys(part for operand in operands for part in _computed(operand)))
        return (
            f"it adds up {listed(joined)}, which {listed(operands)} joins: they would have to be added one after the "
            "other, x + a + b, each the output of a linear layer"
        )
    return (
        f"it sums {listed(operands)} over dim {arguments(node).get('dim')}: the mean over the tokens of "
        "[batch, tokens, channels] (dim=1) would have to be in its place, the factor in the weights of the linear "
        f"layer behind it{_elsewhere(node)}"
    )


def _norm(node: Node) -> str:
    return (
        f"it takes a length of {listed(_computed(node))} at run time: it would have to normalise the last axis, the "
        "channels of tokens or of the heads of q or k, behind what runs in integers, or a LayerNorm would have to be "
        f"in its place{_elsewhere(node)}"
    )


def _resize(node: Node) -> str:
    return (
        f"it resizes {listed(_computed(node))}, and images are resized in integers nowhere: the model "
        f"would have to do without it{_elsewhere(node)}"
    )


def _embedding(node: Node) -> str:
    return (
        f"it looks up rows by the numbers of {listed(_computed(node))}, given at run time: the model would have to "
        "take the rows themselves as its input (inputs_embeds)"
    )


def _gather(node: Node) -> str:
    return (
        f"it picks out of {listed(_computed(node))} by indices: index_select of whole tokens along one axis, by a "
        f"constant, would have to be in its place{_elsewhere(node)}"
    )


def _unfold(node: Node) -> str:
    return (
        f"it cuts {listed(_computed(node))} into windows at run time: a patch embedding (a convolution "
        f"of stride = kernel) would have to cut them{_elsewhere(node)}"
    )


def _random(node: Node) -> str:
    return "it draws random numbers at run time: a constant (a buffer) would have to be in its place"


def _ranking(node: Node) -> str:
    operands, readers = listed(_computed(node)), read_by(node)
    if all(reader.op == "output" for reader in readers):
        return (
            f"it ranks {operands}: it would have to be left to top_k of export, which ranks the classes of the model's "
            f"one output{_elsewhere(node)}"
        )
    constant = "its result would have to be a constant (a buffer)"
    return f"it ranks {operands} for {listed(readers)}: {constant}{_elsewhere(node)}"


_FAMILIES: dict[str, Sentence] = {
    **dict.fromkeys(("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pad),
    **dict.fromkeys(("group_norm", "native_group_norm", "instance_norm"), _group_norm),
    **dict.fromkeys(("amax", "amin", "max", "min"), _extremum),
    "sum": _sum,
    **dict.fromkeys(("norm", "linalg_vector_norm", "rms_norm"), _norm),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d", "upsample_nearest2d", "grid_sampler"), _resize),
    **dict.fromkeys(("log_softmax", "_log_softmax"), _softmax),
    "embedding": _embedding,
    **dict.fromkeys(("index", "gather", "index_select", "take_along_dim"), _gather),
    **dict.fromkeys(("im2col", "unfold"), _unfold),
    **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "randint", "randperm", "bernoulli"), _random),
    **dict.fromkeys(("topk", "sort", "argsort", "argmax", "argmin"), _ranking),
}
"""By the name of the operator, whatever its overload."""
