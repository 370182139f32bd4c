"""Quantisation-aware training: a Vision Transformer learns to compute in the integers that its program will have.

Example::

    model = qat.prepare(vit, (images[:1],), images, QuantizationConfig.preset("w4a4"))
    qat.train(model, dataset, teacher=vit)
    program = qat.export(model)
"""

from .history import History
from .method import TrainingMethod
from .plot import plot
from .preparation import QatModel, convert, export, prepare
from .trainer import Evaluate, train

__all__ = ["Evaluate", "History", "QatModel", "TrainingMethod", "convert", "export", "plot", "prepare", "train"]
