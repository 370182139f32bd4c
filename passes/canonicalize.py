"""Brings the Vision Transformers of the model zoos to one graph."""

import logging

from torch.fx import GraphModule

from packqvit_delegate.errors import UnsupportedModelError

from .decompose_attention import decompose_attention
from .embed_linears import embed_linears
from .flatten_pooling import flatten_pooling
from .fold_affine_input import fold_affine_input
from .fold_batch_norm import fold_batch_norm
from .fold_constants import fold_constants
from .fold_embeddings import fold_embeddings
from .fold_layer_scale import fold_layer_scale
from .functionalize import needs_functionalization
from .graph import compiled_once, signature
from .join_rows import join_rows
from .mark_activations import mark_activations
from .merge_adapters import merge_adapters
from .normalize_convolution import normalize_convolution
from .normalize_indices import normalize_indices
from .normalize_patches import normalize_patches
from .normalize_rms import normalize_rms
from .normalize_rotary import normalize_rotary
from .normalize_stacked_sums import normalize_stacked_sums
from .normalize_unary import normalize_unary
from .order_patch_features import order_patch_features
from .orient_residual import orient_residual
from .raise_moves import raise_moves
from .remove_no_ops import remove_no_ops
from .repeat_shared_heads import repeat_shared_heads
from .sink_layouts import sink_layouts
from .split_joined_inputs import split_joined_inputs
from .split_qkv import split_qkv

logger = logging.getLogger(__name__)

_PASSES = (
    fold_constants,
    remove_no_ops,
    normalize_indices,
    normalize_convolution,
    fold_batch_norm,
    normalize_patches,
    normalize_stacked_sums,
    normalize_unary,
    normalize_rms,
    merge_adapters,
    join_rows,
    split_joined_inputs,
    repeat_shared_heads,
    normalize_rotary,
    sink_layouts,
    split_qkv,
    decompose_attention,
    sink_layouts,
    remove_no_ops,
    fold_layer_scale,
    embed_linears,
    order_patch_features,
    fold_affine_input,
    fold_embeddings,
    flatten_pooling,
    raise_moves,
    orient_residual,
)
# Every round removes one layer of indirection; models need two, and one that changes nothing.
_MAX_ROUNDS = 8


def canonicalize(graph_module: GraphModule) -> GraphModule:
    """Runs the float passes until nothing changes: the same function of the input, in the canonical ATen form.

    before: the graph of a timm, Hugging Face, torchvision or hand-written Vision Transformer
    after:  the canonical graph; what the passes do not know stays as it was

    The canonical graph, B batch, N tokens, P patches, T prefix tokens, H heads of d channels, D = H * d:

    * embedding: conv2d -> reshape [B, D, P] -> transpose.int(1, 2) -> add.Tensor(tokens, position [1, P, D])
      -> cat([prefix [B, T, D], tokens], 1). No add without a position embedding, no cat without prefix tokens. `prefix`
      holds the class, distillation and register tokens with their positions added. Both are get_attr nodes. A model
      whose tokens are in another order, or in windows, has index_select.default(tokens, 1, index) and a reshape there.
    * attention: q, k and v are three linears [B, N, D], each followed by reshape [B, N, H, d] and permute [0, 2, 1, 3];
      transpose.int(k, -2, -1); matmul(q, kT); mul.Tensor(scores, float), always there, even for 1.0; add.Tensor(scores,
      bias [B or 1, H or 1, N, N] get_attr) only when the bias is not zero, masked elements hold the smallest float32;
      add.Tensor(scores, packqvit.relative_bias(q, numbers [H or 1, O, d] get_attr, rows, columns)) where relative
      positions depend on the query, with the q of the matmul;
      softmax.int(scores, -1); matmul(p, v); permute [0, 2, 1, 3]; reshape [B, N, D]. Between reshape and permute q and
      k may have a norm of each head, rms_norm.default or layer_norm.default over [d], and behind it mul.Tensor(x,
      [H, 1] or [H, d] get_attr); L2 normalisation is rms_norm and a factor on the scores. Rotary positions are
      packqvit.rotary(x, cosine [N, H or 1, d], sine, partner) behind that. Constant queries, as in pooling by
      attention, are a get_attr [1, H, Nq, d] in the matmul.
    * residual: add.Tensor(stream, branch) with the branch a linear; LayerScale, other constant factors and signs are in
      the linear's weight and bias. A scaled skip is add.Tensor(mul.Tensor(stream, float or [D] get_attr), branch). Or
      the branch is layer_norm.default(linear), a post-norm.
    * linears that read the stream itself read packqvit.activation.default(stream, or moved tokens of it).
    * activation: gelu.default(x), gelu.default(x, approximate="tanh"), another operator of one argument, or
      packqvit.function(x, text) for all other functions of a linear's output. A gated MLP is mul.Tensor of two linears,
      or of functions of such.
    * head: select.int(x, 1, i) or slice.Tensor and mean.dim, then linear. Several heads, and one that reads several
      values side by side, are a sum of linears, add.Tensor(linear, linear), with constant factors in their weights.
    * linears that read what others than linears read too, such as a LayerNorm that the model gives out, read an
      activation.default of it as well.
    * moves are reshape.default with every size written out, permute.default, transpose.int, select.int, slice.Tensor;
      scalings by a number are mul.Tensor(x, float); nothing writes into its input.

    Args:
        graph_module: `torch.export.export(model.eval(), inputs).module()` with static shapes and, where it writes,
            behind `functionalize_graph`. Changed in place.

    Returns:
        `graph_module`.

    Raises:
        UnsupportedModelError: The graph writes, has dynamic shapes, or no fake tensors in `meta["val"]`.
    """
    if needs_functionalization(graph_module.graph):
        raise UnsupportedModelError(
            "the graph writes into tensors, or has regions of its own (torch.no_grad, autocast): give it to "
            "passes.functionalize_graph first"
        )
    with compiled_once(graph_module):
        before = None
        for _ in range(_MAX_ROUNDS):
            if (now := signature(graph_module)) == before:
                break
            before = now
            for run in _PASSES:
                run(graph_module)
        else:
            logger.warning("the canonical form was not reached in %d rounds", _MAX_ROUNDS)
        return mark_activations(graph_module)
