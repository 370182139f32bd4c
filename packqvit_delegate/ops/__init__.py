"""The integer operators `packqvit::*`: definition and eager PyTorch reference of each (docs/numerics.md).

Importing this package registers them with torch.library; they run on any tensor, can be exported, and their bits are
what every native kernel produces.
"""

from .activation import activation
from .attention import attention_scores, attention_values, softmax
from .ends import pixel_codes, take_scores, top_k
from .function import function
from .layer_norm import head_norm, layer_norm, layer_norm_add
from .linear import linear, linear_accumulate, linear_add, patch_embedding
from .multiply import multiply
from .pooling import max_tokens, mean_tokens
from .quantize import dequantize, quantize
from .relative import add_relative_bias, relative_bias
from .rotary import rotary, rotate
from .simulated import dequantize_offset, dequantize_probabilities, quantize_probabilities
from .tokens import join_tokens, lookup_table, repeat_tokens, requantize_add, requantize_codes, select_tokens

__all__ = [
    "activation",
    "add_relative_bias",
    "attention_scores",
    "attention_values",
    "dequantize",
    "dequantize_offset",
    "dequantize_probabilities",
    "function",
    "head_norm",
    "join_tokens",
    "layer_norm",
    "layer_norm_add",
    "linear",
    "linear_accumulate",
    "linear_add",
    "lookup_table",
    "max_tokens",
    "mean_tokens",
    "multiply",
    "patch_embedding",
    "pixel_codes",
    "quantize",
    "quantize_probabilities",
    "relative_bias",
    "repeat_tokens",
    "requantize_add",
    "requantize_codes",
    "rotary",
    "rotate",
    "select_tokens",
    "softmax",
    "take_scores",
    "top_k",
]
