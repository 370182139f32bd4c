"""Measurements of the delegate beside its peers; docs/benchmarks.md says what each number means."""

import logging
import warnings

import torch  # noqa: F401  sets up its loggers, which are quietened below

# Nothing of it can a reader of benchmarks act on.
for _name in ("torchao", "torch.utils._pytree", "torch.onnx", "onnxscript", "packqvit_delegate"):
    logging.getLogger(_name).setLevel(logging.ERROR)
logging.getLogger().setLevel(logging.ERROR)
warnings.filterwarnings("ignore")
