"""Lets timm and torchvision be imported beside a CPU-only torch.

The torchvision wheel of the package index is linked against CUDA: beside a CPU build of torch its compiled operators do
not load, and `import torchvision`, which timm needs, fails with "operator torchvision::nms does not exist". Importing
this module first declares the names of the operators, so that the parts in pure Python (models, transforms) import. It
does nothing where torchvision works.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import torch


def declare_operators() -> torch.library.Library | None:
    """Declares what torchvision registers fake kernels for; the declarations last as long as the returned library."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations or torch.version.cuda is not None:
        return None
    source = (Path(spec.submodule_search_locations[0]) / "_meta_registrations.py").read_text()
    names = dict.fromkeys(re.findall(r'(?:register_meta|register_fake)\("(?:torchvision::)?(\w+)"', source))
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in names:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    return library


LIBRARY = declare_operators()
