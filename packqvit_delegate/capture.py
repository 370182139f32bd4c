"""From a module to its graph, and what is refused on the way."""

from __future__ import annotations

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from .errors import PackQViTError, UnsupportedModelError
from .release import forget_shapes


def capture(model: nn.Module, example_inputs: tuple[torch.Tensor, ...]) -> GraphModule:
    """torch.export of a model in evaluation mode, with static shapes.

    Raises:
        UnsupportedModelError: torch.export fails.
    """
    try:
        exported = torch.export.export(model.eval(), example_inputs)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"torch.export cannot capture {type(model).__name__}: {first_line}; make "
            "torch.export.export(model, inputs) work first"
        ) from error
    check_static(exported)
    forget_shapes(exported.graph)
    return exported.module()


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
        PackQViTError: A parameter or buffer holds NaN or infinity.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise PackQViTError(f"{name} holds NaN or infinite values; the checkpoint is damaged or training diverged")
