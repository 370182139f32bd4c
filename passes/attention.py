"""The canonical attention, recognised literally, with or without quantisers in it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from .codes import codes_of_constant, skip_codes, value_users
from .graph import aten, is_call, is_constant, shape_of
from .head_norm import HeadNorm, Rotary, match_head_norm, match_rotary, split_linear

_RELATIVE = torch.ops.packqvit.relative_bias.default


@dataclass(frozen=True)
class Attention:
    """The nodes of one canonical attention.

    Attributes:
        query: The linear that gives q, [B, Nq, H * d]; or the constant that it is for all images, [1, H, Nq, d].
        key: The linear that gives k, [B, Nk, H * d].
        value: The linear that gives v, [B, Nk, H * dv].
        scores: The matmul of q and the transposed k, [B, H, Nq, Nk].
        scale: The factor on the scores.
        bias: The constant added to the scaled scores, [B or 1, H or 1, Nq, Nk].
        relative: The relative positions that are added last, the node of `packqvit.relative_bias`, or None.
        softmax: The probabilities, [B, H, Nq, Nk].
        values: The matmul of the probabilities and v, [B, H, Nq, dv].
        output: The reshape that gives [B, Nq, H * dv], or the same rows in another shape.
        heads: H.
        query_norm: What normalises each head of q, as in cosine attention and QK-norm, or None.
        key_norm: The same of k.
        query_rotary: Rotary positions of q, behind its norm, or None.
        key_rotary: The same of k.
    """

    query: Node
    key: Node
    value: Node
    scores: Node
    scale: float
    bias: Node | None
    softmax: Node
    values: Node
    output: Node
    heads: int
    query_norm: HeadNorm | None = None
    key_norm: HeadNorm | None = None
    query_rotary: Rotary | None = None
    key_rotary: Rotary | None = None
    relative: Node | None = None

    @property
    def has_constant_query(self) -> bool:
        """Whether q is a constant."""
        return not is_call(self.query, aten.linear.default)


def match_attention(softmax: Node) -> Attention | None:
    """The canonical attention around a softmax node, or None when anything differs from the canonical form."""
    if not is_call(softmax, aten.softmax.int) or softmax.args[1:] != (-1,) or softmax.kwargs:
        return None
    scaled: Any = softmax.args[0]
    bias: Any = None
    relative: Any = None
    if is_call(scaled, aten.add.Tensor) and len(scaled.args) == 2 and is_call(scaled.args[1], _RELATIVE):
        scaled, relative = scaled.args
    if is_call(scaled, aten.add.Tensor) and len(scaled.args) == 2 and is_constant(scaled.args[1]):
        scaled, bias = scaled.args
    if not is_call(scaled, aten.mul.Tensor) or not isinstance(scaled.args[1], float):
        return None
    scores: Any = scaled.args[0]
    users = value_users(softmax)
    if len(users) != 1 or not is_call(scores, aten.matmul.default) or not is_call(users[0], aten.matmul.default):
        return None
    values: Any = users[0]
    if skip_codes(values.args[0]) is not softmax:
        return None
    if relative is not None and (relative.args[0] is not scores.args[0] or not is_constant(relative.args[1])):
        return None
    transposed: Any = scores.args[1]
    if not is_call(transposed, aten.transpose.int) or transposed.args[1:] != (-2, -1):
        return None
    query, query_norm, query_rotary = _queries(scores.args[0])
    key, key_norm, key_rotary = _changed_projection(transposed.args[0])
    value = _projection(values.args[1])
    permute = _only_user(values, aten.permute.default)
    output = permute and _only_user(permute, aten.reshape.default)
    if query is None or key is None or value is None or permute is None or not output:
        return None
    _, heads, _, channels = shape_of(values)
    if not _is_head_exchange(permute) or shape_of(output)[-1] != heads * channels:
        return None
    return Attention(
        query,
        key,
        value,
        scores,
        scaled.args[1],
        bias,
        softmax,
        values,
        output,
        heads,
        query_norm,
        key_norm,
        query_rotary,
        key_rotary,
        relative,
    )


_Projection = tuple[Node | None, HeadNorm | None, Rotary | None]


def _queries(heads: Any) -> _Projection:
    """A constant, with or without codes, or the linear that gives q, its norm and its rotation."""
    is_shared = is_constant(heads) or codes_of_constant(heads) is not None
    return (heads, None, None) if is_shared else _changed_projection(heads)


def _is_head_exchange(node: Any) -> bool:
    """Whether `node` exchanges heads and tokens."""
    return is_call(node, aten.permute.default) and list(node.args[1]) == [0, 2, 1, 3]


def _changed_projection(heads: Any) -> _Projection:
    """The linear behind linear -> reshape [B, N, H, d] [-> norm] [-> rotary] -> permute [0, 2, 1, 3], and those."""
    if not _is_head_exchange(heads):
        return None, None, None
    value = skip_codes(heads.args[0])
    rotary = match_rotary(value)
    if rotary is not None:
        return rotary.linear, rotary.norm, rotary
    norm = match_head_norm(value)
    return (_projection(heads), None, None) if norm is None else (norm.source, norm, None)


def _projection(heads: Any) -> Node | None:
    """The linear behind linear -> reshape [B, N, H, d] -> permute [0, 2, 1, 3]."""
    return split_linear(heads.args[0]) if _is_head_exchange(heads) else None


def _only_user(node: Node, target: Any) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and is_call(users[0], target) else None
