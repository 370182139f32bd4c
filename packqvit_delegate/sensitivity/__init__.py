"""Where an integer program loses accuracy, and which layers should have 8 instead of 4 bits."""

from ..preparation import Pair, make_pair
from .mixed_precision import SEARCH_IMAGES, Limits, MixedPrecision, suggest, suggest_for
from .plot import plot
from .report import OperatorLoss, SensitivityReport, analyze, measure
from .table import block_table, closeness, worst_table

__all__ = [
    "SEARCH_IMAGES",
    "Limits",
    "MixedPrecision",
    "OperatorLoss",
    "Pair",
    "SensitivityReport",
    "analyze",
    "block_table",
    "closeness",
    "make_pair",
    "measure",
    "plot",
    "suggest",
    "suggest_for",
    "worst_table",
]
