"""The rules of the integer lowering, one module per family of operators."""

from . import attention_rules, linear_rules, norm_rules

__all__ = ["attention_rules", "linear_rules", "norm_rules"]
