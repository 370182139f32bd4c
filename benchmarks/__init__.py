"""Measurements of the delegate beside its peers; docs/benchmarks.md says what each number means."""

import logging

import torch  # noqa: F401  sets up its loggers, which are quietened below

# What they say on import is nothing that a reader of benchmarks can act on.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
