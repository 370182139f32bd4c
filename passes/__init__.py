"""Graph passes: from the graph of a model zoo's Vision Transformer to the canonical one, and on to integers."""

import packqvit_delegate.ops  # noqa: F401  registers the operators that passes name

from .attention import Attention, match_attention
from .canonicalize import canonicalize
from .decompose_attention import decompose_attention
from .equalize_layer_norm import equalize_layer_norm
from .equalize_values import equalize_values
from .flatten_pooling import flatten_pooling
from .fold_constants import fold_constants
from .fold_embeddings import fold_embeddings
from .fold_input_normalization import fold_input_normalization
from .fold_layer_scale import fold_layer_scale
from .functionalize import functionalize_graph
from .give_codes import give_codes
from .hoist_token_select import hoist_token_select
from .join_rows import join_rows
from .lower_to_integer import lower_to_integer
from .mark_outputs import mark_outputs
from .merge_adapters import merge_adapters
from .normalize_convolution import normalize_convolution
from .normalize_indices import normalize_indices
from .normalize_unary import normalize_unary
from .orient_residual import orient_residual
from .raise_moves import raise_moves
from .rank_classes import rank_classes
from .remove_no_ops import remove_no_ops
from .rotate_residual import rotate_residual
from .rotate_values import rotate_values
from .select_before_norm import select_before_norm
from .sink_layouts import sink_layouts
from .split_joined_inputs import split_joined_inputs
from .split_outlier_channels import split_outlier_channels
from .split_qkv import split_qkv
from .take_bytes import take_bytes
from .verify_integer import FloatOperator, float_operators

__all__ = [
    "Attention",
    "FloatOperator",
    "canonicalize",
    "decompose_attention",
    "equalize_layer_norm",
    "equalize_values",
    "flatten_pooling",
    "float_operators",
    "fold_constants",
    "fold_embeddings",
    "fold_input_normalization",
    "fold_layer_scale",
    "functionalize_graph",
    "give_codes",
    "hoist_token_select",
    "join_rows",
    "lower_to_integer",
    "mark_outputs",
    "match_attention",
    "merge_adapters",
    "normalize_convolution",
    "normalize_indices",
    "normalize_unary",
    "orient_residual",
    "raise_moves",
    "rank_classes",
    "remove_no_ops",
    "rotate_residual",
    "rotate_values",
    "select_before_norm",
    "sink_layouts",
    "split_joined_inputs",
    "split_outlier_channels",
    "split_qkv",
    "take_bytes",
]
