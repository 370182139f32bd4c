"""The rules of the integer lowering, one module per family of operators."""

from . import addition_rules, attention_rules, gate_rules, linear_rules, norm_rules, pooling_rules, rotary_rules

__all__ = [
    "addition_rules",
    "attention_rules",
    "gate_rules",
    "linear_rules",
    "norm_rules",
    "pooling_rules",
    "rotary_rules",
]
