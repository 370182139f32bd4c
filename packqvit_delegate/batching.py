"""Runs a graph that was exported for one batch size on another."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from .passes.graph import aten, is_call


def arguments_for_batch(node: Node, args: tuple[Any, ...], images: int, exported: int) -> tuple[Any, ...]:
    """The arguments of a call in a canonical graph, with the sizes that it spells out adapted.

    Args:
        node: The call.
        args: Its arguments, nodes replaced by their values.
        images: Images in these values.
        exported: Images that the graph was exported for.

    Returns:
        Arguments for `node.target`.
    """
    if is_call(node, aten.reshape.default, aten.expand.default) and args[1][0] == exported:
        return (args[0], [images, *args[1][1:]])
    if is_call(node, aten.cat.default):
        # Constant parts, such as the class token, are there once for each exported image.
        parts = [part if part.shape[0] == images else part[:1].expand(images, *part.shape[1:]) for part in args[0]]
        return (parts, *args[1:])
    return args
