"""Lets go of what PyTorch, torchao and ExecuTorch still hold of a model when its export is over."""

from __future__ import annotations

import contextlib
import gc
import inspect
import linecache
import types
from collections.abc import Callable, Iterator
from typing import Any

import torchao.utils
from executorch.exir.backend.utils import is_same_node
from executorch.exir.pass_base import ExportPass
from executorch.exir.passes import base_post_op_replace_passes, base_pre_op_replace_passes
from torch import nn
from torch._decomp.decompositions_for_rng import PhiloxStateTracker
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.ao.quantization.fx import utils as ao_utils
from torch.export import ExportedProgram
from torch.fx import Graph, graph_module
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from .training.memory import give_back_freed_memory

_CACHED: tuple[Any, ...] = (
    torchao.utils._assert_and_get_unique_device,  # prepared modules
    ao_utils.assert_and_get_unique_device,  # prepared modules
    is_same_node,  # nodes of edge programs
    *vars(ShapeEnv).values(),  # some of its methods: exported and lowered programs
)
"""Functions that remember results by their arguments, and so the arguments too."""


_LARGE = 4 * 2**20
"""Bytes of parameters from which on a model's graphs are collected at once, not when Python gets to it."""

_nesting = 0


@contextlib.contextmanager
def released(model: nn.Module | ExportedProgram) -> Iterator[None]:
    """At its end, also after an error, nothing that was made within it lives on because a cache holds it.

    Args:
        model: What is exported.
    """
    global _nesting
    _nesting += 1
    try:
        yield
    finally:
        _nesting -= 1
        if _nesting == 0:
            release(collect=_bytes(model) >= _LARGE)


def release(collect: bool = True) -> None:
    """Empties the caches that hold modules, graphs and tensors of exports that are over.

    What was in them is made again when somebody asks for it. Without it every export of a DeiT-Tiny keeps 350 MiB.

    Args:
        collect: Whether Python's garbage collector runs, a quarter of a second; graphs hold themselves in circles.
    """
    for function in _CACHED:
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    for one in [*base_pre_op_replace_passes, *base_post_op_replace_passes]:
        _forget_last_run(one)
    proxy_tensor._FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT.clear()  # nodes of the last export
    PhiloxStateTracker.reset()  # fake tensors of the last lowering
    for key in [key for key in FakeTensorMode.cache if any(isinstance(part, nn.Module) for part in key.key)]:
        del FakeTensorMode.cache[key]  # calls of lowered modules
    if collect:
        gc.collect()
    _forget_sources()
    give_back_freed_memory()


def _bytes(model: nn.Module | ExportedProgram) -> int:
    named = [*model.named_parameters(), *model.named_buffers()]
    return sum(tensor.numel() * tensor.element_size() for _, tensor in named)


def forget_shapes(graph: Graph) -> None:
    """Breaks the circle in which torch.export leaves the shapes of a graph's inputs.

    The shape environment holds fake inputs, and their sizes hold the shape environment, through C++, where Python's
    garbage collector does not look. With it would stay the results of all operators that were traced.

    Args:
        graph: Of an exported program with static shapes, when nothing is exported from it any more.
    """
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor) and (shapes := value.fake_mode.shape_env) is not None:
            if shapes.tracked_fakes is not None:
                shapes.tracked_fakes.clear()
            shapes.fake_tensor_cache.clear()
            return


def _forget_last_run(one: Callable[..., Any]) -> None:
    """Gives a pass that ExecuTorch shares between programs the state that it was made with.

    A pass keeps the fake tensors of its last run, and after an error the graph too. The function around it has a copy
    of the pass's attributes, made when the pass was new.
    """
    instance = inspect.unwrap(one)
    if isinstance(instance, ExportPass):
        for tracer in {instance.tracer, getattr(one, "tracer", instance.tracer)}:
            tracer.fake_tensor_mode = None
        ExportPass.__init__(instance)


def _forget_sources() -> None:
    """Forgets the source texts of graphs that are gone: torch.fx keeps one for every time that a graph was compiled."""
    # Not isinstance, which asks a weak reference for the class of an object that may be gone.
    functions = (thing for thing in gc.get_objects() if type(thing) is types.FunctionType)
    alive = {function.__code__.co_filename for function in functions}
    for name in graph_module._loader.eval_cache.keys() - alive:
        del graph_module._loader.eval_cache[name]
        linecache.cache.pop(name, None)
