"""A classifier's model without its classifier: an image tower."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from packqvit_delegate.arguments import checked
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models.loading import LoadedModel


@checked
def without_classifier(loaded: LoadedModel) -> LoadedModel:
    """The same model, giving what its classifier reads: the class token's features, or those of pooled tokens.

    The last linear layers with one output a class are left out: one, or the two of a distilled DeiT.

    Args:
        loaded: Gives logits, float32 [B, classes].

    Returns:
        A copy that gives float32 [B, channels].

    Raises:
        PackQViTError: It does not end with a linear classifier.
    """
    module = copy.deepcopy(loaded.module)
    size = loaded.preprocessing.size
    image = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        logits = module(image)
    linears = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    heads = []
    while linears and isinstance(logits, torch.Tensor) and linears[-1][1].out_features == logits.shape[-1]:
        heads.append(linears.pop())
    for name, _ in heads:
        module.set_submodule(name, nn.Identity())
    found = None
    if heads:
        with torch.no_grad():
            found = module(image)
    if found is None or found.shape != (1, heads[0][1].in_features):
        raise PackQViTError(f"{loaded.name} does not end with a linear classifier, so that none can be left out")
    return dataclasses.replace(loaded, module=module, class_names=None, task="features")
