"""Brings a graph to float32, one device and contiguous tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from packqvit_delegate.errors import UnsupportedModelError
from packqvit_delegate.inputs import OTHER_FLOATS, contiguous, has_plain_strides

from .graph import aten, find

_LARGEST = torch.finfo(torch.float32).max
_CPU = torch.device("cpu")


def is_float32(graph_module: GraphModule) -> bool:
    """Whether all tensors of a graph are contiguous on the CPU, and none has another floating-point type."""
    values = pytree.tree_leaves([node.meta.get("val") for node in graph_module.graph.nodes])
    if any(isinstance(value, Tensor) and (value.dtype in OTHER_FLOATS or value.device != _CPU) for value in values):
        return False
    return all(_is_plain(tensor) for _, tensor in _tensors(graph_module))


def to_float32(graph_module: GraphModule) -> GraphModule:
    """Turns half and double precision into float32, moves to the CPU, and makes all constants contiguous.

    before: linear(to(x, float16), weight float16)
    after:  linear(to(x, float32), weight float32)

    Args:
        graph_module: Of torch.export; changed in place. The tensors in `meta["val"]` are those of before: export it
            again, with float32 inputs. The parameters that it was exported from stay as they are.

    Raises:
        UnsupportedModelError: The bits of a half or double are read as another type.
    """
    for node in find(graph_module, aten.view.dtype):
        source = node.args[0]
        if {source.meta["val"].dtype, node.args[1]} & set(OTHER_FLOATS):  # type: ignore[union-attr]
            raise UnsupportedModelError(
                f"{node.name} reads the bits of {source.meta['val'].dtype} as {node.args[1]}, "  # type: ignore[union-attr]
                "which means nothing in float32: give the model in float32"
            )
    replaced: dict[int, Tensor] = {}
    for name, tensor in list(_tensors(graph_module)):
        if not _is_plain(tensor):
            path, _, attribute = name.rpartition(".")
            setattr(graph_module.get_submodule(path), attribute, replaced.setdefault(id(tensor), _plain(tensor)))
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function":
            if node.target is aten._assert_tensor_metadata.default:
                graph_module.graph.erase_node(node)
                continue
            node.args, node.kwargs = pytree.tree_map(_plain_argument, (node.args, dict(node.kwargs)))
            if node.target is aten.view.default:  # the strides may be others now
                node.target = aten.reshape.default
        elif node.op == "call_module" and not node.users:  # checks the inputs' types
            graph_module.graph.erase_node(node)
    graph_module.graph.lint()
    graph_module.recompile()
    return graph_module


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """All parameters, buffers and plain tensor attributes by their dotted names."""
    found = []
    for path, child in module.named_modules(remove_duplicate=False):
        own = {**vars(child), **child._parameters, **child._buffers}
        found += [(f"{path}.{key}" if path else key, value) for key, value in own.items() if isinstance(value, Tensor)]
    return found


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype not in OTHER_FLOATS and tensor.device == _CPU and has_plain_strides(tensor)


def _plain(tensor: Tensor) -> Tensor:
    value = tensor.detach()
    if value.dtype in OTHER_FLOATS:
        if value.dtype == torch.float64:  # masks hold the most negative float64
            value = torch.where(value.isfinite(), value.clamp(-_LARGEST, _LARGEST), value)
        value = value.float()
    value = contiguous(value.cpu())
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _plain_argument(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return torch.float32 if value in OTHER_FLOATS else value
    if isinstance(value, torch.device):
        return _CPU
    if isinstance(value, float) and math.isfinite(value):
        return min(max(value, -_LARGEST), _LARGEST)
    return value
