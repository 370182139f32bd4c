"""What may be handed over as the model, and the module in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from .errors import UnsupportedModelError
from .passes.graph import arguments
from .passes.patterns import layer_name
from .passes.reasons import operator_of
from .passes.remove_no_ops import DROPOUTS, active_dropouts

FloatModel = nn.Module | ExportedProgram

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_QUANTIZED_OPERATORS = ("quantized_decomposed", "quantized", "_quantized", "torchao", "pt2e_quant", "packqvit")
_QUANTIZED_MODULES = (
    "torch.ao.nn.quantized.",
    "torch.ao.nn.qat.",
    "torch.ao.nn.intrinsic.quantized.",
    "torch.ao.nn.intrinsic.qat.",
    "torch.ao.quantization.observer.",
    "torch.ao.quantization.fake_quantize.",
    "torchao.quantization.",
    "packqvit_delegate.quantizer.",
    "bitsandbytes.",
)
_BYTES = (torch.int8, torch.uint8)


def float_module(model: FloatModel) -> nn.Module:
    """The float module in what the user gave: out of an exported program, torch.compile or data parallelism.

    Raises:
        UnsupportedModelError: It is a TorchScript module, is quantised already, or was exported while it trained.
    """
    while True:
        if isinstance(model, OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            break
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            "the model is TorchScript, which torch.export cannot read: give the nn.Module that it was made from"
        )
    module = model.module() if isinstance(model, ExportedProgram) else model
    check_float(module)
    if is_exported(module):
        check_dropout(module, "it was exported while it trained: export model.eval()")
    return module


def is_exported(module: nn.Module) -> TypeGuard[GraphModule]:
    """Whether it is the module of an exported program, which has no mode to switch."""
    if not isinstance(module, GraphModule):
        return False
    return any(node.op == "placeholder" and "val" in node.meta for node in module.graph.nodes)


@contextlib.contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode; afterwards each part of it is in the mode that it was in."""
    training = [part for part in module.modules() if part.training]
    if not training or is_exported(module):
        yield
        return
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        if module in training:
            module.train()  # some modules do more than to set the flag
        for part, mode in modes:
            part.training = mode


def check_dropout(graph_module: GraphModule, advice: str) -> None:
    """Refuses a graph that draws random numbers.

    Args:
        graph_module: Of torch.export.
        advice: What to do about it.

    Raises:
        UnsupportedModelError: Dropout with p > 0 is active.
    """
    if active := active_dropouts(graph_module):
        places = ", ".join(sorted({layer_name(node) for node in active})[:4])
        raise UnsupportedModelError(f"dropout is active in {places}; {advice}")


def check_random(graph_module: GraphModule) -> None:
    """Refuses a graph that draws random numbers for something else than dropout.

    Args:
        graph_module: Of torch.export.

    Raises:
        UnsupportedModelError: It does.
    """
    if drawn := [node for node in graph_module.graph.nodes if node.users and _draws(node)]:
        found = ", ".join(dict.fromkeys(f"{operator_of(node)} in {layer_name(node)}" for node in drawn[:4]))
        raise UnsupportedModelError(
            f"the model draws random numbers at run time ({found}), so that no two of its answers would be the same: a "
            "constant (a buffer) would have to be in their place, or the part of the model that does not need them be "
            "exported, such as the encoder of a masked autoencoder"
        )


def _draws(node: Node) -> bool:
    """Whether a call draws random numbers, other than dropout; operators of training draw none when it is over."""
    if node.op != "call_function" or node.target in DROPOUTS:
        return False
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = arguments(node)
    return given.get("train", True) and given.get("training", True) and given.get("dropout_p", 1.0) > 0


def check_float(module: nn.Module) -> None:
    """Refuses what is quantised already.

    Raises:
        UnsupportedModelError: A part of it is.
    """
    where = next(_quantized_parts(module), None)
    if where is not None:
        raise UnsupportedModelError(
            f"the model is quantised already ({where}): give the float model that it was made from, whose weights and "
            "ranges this package chooses itself"
        )


def _is_quantized(operator: OpOverload) -> bool:
    return operator.namespace in _QUANTIZED_OPERATORS or "quantize" in operator.name()


def _quantized_parts(module: nn.Module) -> Iterator[str]:
    for name, part in module.named_modules():
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        if kind.startswith(_QUANTIZED_MODULES):
            yield f"{name or 'the model'} is a {kind}"
        if isinstance(part, GraphModule):
            for node in part.graph.nodes:
                if isinstance(node.target, OpOverload) and _is_quantized(node.target):
                    yield f"it calls {node.target}"
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if type(tensor).__module__.startswith("torchao.") or tensor.is_quantized:
            yield f"{name} is a {type(tensor).__name__} of {tensor.dtype}"
        elif tensor.dtype in _BYTES and tensor.dim() >= 2 and "weight" in name.rpartition(".")[2]:
            yield f"{name} has {tensor.dtype}"
