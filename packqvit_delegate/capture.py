"""From a module to its graph, and what is refused on the way."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from .arguments import shown
from .entry import (
    FloatModel,
    check_dropout,
    check_float,
    check_random,
    evaluation_mode,
    float_module,
    is_exported,
)
from .errors import PackQViTError, UnsupportedModelError
from .inputs import contiguous, plain
from .passes.functionalize import functionalize, needs_functionalization
from .passes.to_float32 import is_float32, to_float32
from .release import forget_shapes

Inputs = tuple[torch.Tensor, ...]


def capture(model: FloatModel, example_inputs: Inputs) -> GraphModule:
    """The graph of a model in evaluation mode: static shapes, float32, contiguous, and nothing writes into a tensor.

    Args:
        model: As for `packqvit_delegate.export`; it stays as it is.
        example_inputs: Of any floating-point type and any strides; the graph takes contiguous float32.

    Raises:
        PackQViTError: A weight is not finite, or images are bytes and the model takes none.
        UnsupportedModelError: torch.export fails, the model is quantised already, draws random numbers, or the outputs
            depend on earlier calls.
    """
    module = float_module(model)
    check_weights(module)
    trains = module.training and not is_exported(module)
    with evaluation_mode(module):
        exported = _export(module, example_inputs)
        graph_module = _functional(exported)
        if trains:  # model.train() may write into parameters, as adapters that merge themselves do
            graph_module = copy.deepcopy(graph_module)
    if not is_float32(graph_module):
        again = torch.export.export(to_float32(graph_module), plain(example_inputs))
        graph_module = _functional(again)
    return graph_module


def _functional(exported: ExportedProgram) -> GraphModule:
    check_static(exported)
    check_float(exported.graph_module)
    check_dropout(exported.graph_module, "give it training=self.training, so that model.eval() turns it off")
    check_random(exported.graph_module)
    needs = needs_functionalization(exported.graph)
    graph_module = functionalize(exported) if needs else exported.module()
    forget_shapes(exported.graph)
    return graph_module


def _export(module: nn.Module, example_inputs: Inputs) -> ExportedProgram:
    """torch.export with the inputs in the type that the model takes."""
    if is_exported(module):
        _check_shapes(module, example_inputs)
    failed: Exception | None = None
    for inputs, context in _attempts(module, example_inputs):
        try:
            with context, torch.compiler.set_stance("force_eager"):
                return torch.export.export(module, inputs)
        except Exception as error:
            failed = failed or error
    assert failed is not None
    for index, tensor in enumerate(example_inputs):
        if tensor.ndim == 4 and not tensor.is_floating_point():
            raise PackQViTError(
                f"example_inputs[{index}] is {shown(tensor)}, and {type(module).__name__} does not take whole numbers: "
                "give images as the model takes them, such as (byte / 255 - mean) / std in float32, here and for the "
                "calibration; byte_input='hwc' with input_normalization makes the program take the bytes"
            ) from failed
    first_line = str(failed).strip().splitlines()[0] if str(failed).strip() else type(failed).__name__
    raise UnsupportedModelError(
        f"torch.export cannot capture {type(module).__name__}: {first_line}; make "
        "torch.export.export(model, inputs) work first"
    ) from failed


def _attempts(module: nn.Module, example_inputs: Inputs) -> Iterator[tuple[Inputs, contextlib.AbstractContextManager]]:
    """Inputs to export with, the likeliest first, and whether operators are recorded for gradients."""
    tensors = [*module.parameters(), *module.buffers()]
    types = dict.fromkeys(tensor.dtype for tensor in tensors if tensor.is_floating_point())
    device = tensors[0].device if tensors else torch.device("cpu")
    given = tuple(tensor.detach().to(device) for tensor in example_inputs)
    own = next((tensor.dtype for tensor in given if tensor.is_floating_point()), torch.float32)
    for dtype in [own, *types] if own in types else [*types, own]:
        cast = (tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in given)
        yield tuple(map(contiguous, cast)), contextlib.nullcontext()
    yield given, contextlib.nullcontext()  # views of channels_last images may need just these strides
    yield given, _without_gradients()  # operators with out= refuse parameters that want gradients


@contextlib.contextmanager
def _without_gradients() -> Iterator[None]:
    """torch.no_grad, in which nn.MultiheadAttention stays as it is in training."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _check_shapes(module: GraphModule, example_inputs: Inputs) -> None:
    """Refuses inputs of other shapes than a module was exported for.

    Raises:
        UnsupportedModelError: They have.
    """
    nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, tensor in zip(nodes, example_inputs, strict=False):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            continue
        fits = len(value.shape) == tensor.dim() and all(
            size == given for size, given in zip(value.shape, tensor.shape, strict=True) if isinstance(size, int)
        )
        if not fits:
            raise UnsupportedModelError(
                f"the model was exported for {node.name} of {tuple(value.shape)}, but the example input is of "
                f"{tuple(tensor.shape)}: export it again with this shape, or give the nn.Module"
            )


def check_static(exported: ExportedProgram) -> None:
    """Refuses dynamic shapes.

    Raises:
        UnsupportedModelError: An input has a symbolic size.
    """
    for node in exported.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, torch.Tensor) and any(not isinstance(size, int) for size in value.shape):
            raise UnsupportedModelError(
                f"input {node.name} has the dynamic shape {tuple(value.shape)}; memory is planned at export, so export "
                "one program for each shape (or one method for each, in one program)"
            )


def check_weights(model: nn.Module) -> None:
    """Refuses weights that no grid can hold.

    Raises:
        PackQViTError: A parameter or buffer holds NaN or infinity; buffers may hold -inf, as masks of attention do.
    """
    buffers = dict(model.named_buffers())
    for name, tensor in [*model.named_parameters(), *buffers.items()]:
        if tensor.is_meta:
            raise PackQViTError(f"{name} is on the meta device and has no values; load the weights first")
        if not tensor.is_floating_point():
            continue
        usable = torch.isfinite(tensor) if name not in buffers else torch.isfinite(tensor) | torch.isneginf(tensor)
        if not bool(usable.all()):
            raise PackQViTError(f"{name} holds NaN or infinite values; the checkpoint is damaged or training diverged")
