"""What every pass needs: constants, new nodes with a meta value, and the removal of dead code."""

import contextlib
import contextvars
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, map_arg

from packqvit_delegate.errors import UnsupportedModelError

aten = torch.ops.aten

# Those inside a `compiled_once`.
_compiled_later: set[GraphModule] = set()

# The integer in slice.Tensor's `end` that means "to the end".
SLICE_END = 2**63 - 1


def is_call(value: Any, *targets: Callable[..., Any]) -> bool:
    """Whether `value` is a node that calls one of `targets`."""
    return isinstance(value, Node) and value.op == "call_function" and value.target in targets


def find(graph_module: GraphModule, *targets: Callable[..., Any]) -> list[Node]:
    """The nodes that call one of `targets`, in graph order."""
    return [node for node in graph_module.graph.nodes if is_call(node, *targets)]


def shape_of(node: Node) -> tuple[int, ...]:
    """The static shape of a node's tensor.

    Raises:
        UnsupportedModelError: The node carries no tensor in `meta["val"]`, or a dimension is dynamic.
    """
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        raise UnsupportedModelError(
            f"node {node.name} has no tensor in meta['val']: take the graph from torch.export.export()"
        )
    if not all(isinstance(size, int) for size in value.shape):
        raise UnsupportedModelError(
            f"node {node.name} has the dynamic shape {tuple(value.shape)}: export with static shapes"
        )
    return tuple(value.shape)


def dtype_of(node: Node) -> torch.dtype:
    """The dtype of a node's tensor."""
    return node.meta["val"].dtype


def has_tensor(value: Any) -> bool:
    """Whether `value` is a node that holds exactly one tensor."""
    return isinstance(value, Node) and isinstance(value.meta.get("val"), Tensor)


def arguments(node: Node) -> dict[str, Any]:
    """The arguments of an operator call by the names in its schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    bound.update({argument.name: value for argument, value in zip(schema, node.args, strict=False)})
    bound.update(node.kwargs)
    return bound


def is_constant(value: Any) -> bool:
    """Whether `value` is a get_attr node that holds a tensor."""
    return isinstance(value, Node) and value.op == "get_attr" and has_tensor(value)


def constant(graph_module: GraphModule, node: Node) -> Tensor:
    """The tensor behind a get_attr node (a parameter, a buffer or a plain attribute)."""
    value: Any = graph_module
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value.detach()


def set_constant(graph_module: GraphModule, node: Node, value: Tensor) -> None:
    """Gives a get_attr node another tensor of the same shape; the old one, which a model may share, stays as it is."""
    path, _, name = str(node.target).rpartition(".")
    owner = graph_module.get_submodule(path)
    old = getattr(owner, name)
    setattr(owner, name, nn.Parameter(value, requires_grad=False) if isinstance(old, nn.Parameter) else value)


def is_trainable(graph_module: GraphModule, *nodes: Any) -> bool:
    """Whether one of `nodes` is a parameter that asks for gradients."""
    parameters = dict(graph_module.named_parameters(remove_duplicate=False))
    names = {str(node.target) for node in nodes if is_constant(node)}
    return any(name in parameters and parameters[name].requires_grad for name in names)


def scalar_value(graph_module: GraphModule, value: Any) -> float | None:
    """The number that `value` stands for (a literal, or a constant of one element), else None."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if is_constant(value) and value.meta["val"].numel() == 1:
        return float(constant(graph_module, value))
    return None


def scaling(graph_module: GraphModule, node: Any) -> tuple[Node, float] | None:
    """`(x, factor)` when `node` multiplies or divides the tensor `x` by a number, else None."""
    if not is_call(node, aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
        return None
    left, right = node.args[:2]
    is_product = is_call(node, aten.mul.Tensor, aten.mul.Scalar)
    if is_product and scalar_value(graph_module, left) is not None:
        left, right = right, left
    factor = scalar_value(graph_module, right)
    if factor is None or not has_tensor(left) or is_constant(left) or shape_of(left) != shape_of(node):
        return None
    return left, factor if is_product else 1.0 / factor


def call(graph_module: GraphModule, target: Callable[..., Any], *args: Argument, **kwargs: Argument) -> Node:
    """Inserts an operator call at the graph's insertion point, with its value in `meta["val"]`.

    Inside `replacing` it tells the module of what is replaced.
    """
    node = graph_module.graph.call_function(target, args, kwargs)
    if (replaced := _REPLACED.get()) is not None:
        keep_module(node, replaced)
    fake_args, fake_kwargs = map_arg((args, kwargs), lambda argument: argument.meta["val"])
    with _fake_mode(graph_module), torch.no_grad():
        node.meta["val"] = target(*fake_args, **fake_kwargs)
    return node


_REPLACED: contextvars.ContextVar[Node | None] = contextvars.ContextVar("replaced", default=None)


@contextlib.contextmanager
def replacing(graph_module: GraphModule, node: Node, like: Node | None = None) -> Iterator[None]:
    """Inserts before `node` what takes its place: operators that `call` makes tell its module and source line.

    Args:
        graph_module: Owns the graph.
        node: What is replaced, and where nodes are inserted.
        like: Whose module and source line they tell instead.
    """
    token = _REPLACED.set(node if like is None else like)
    try:
        with graph_module.graph.inserting_before(node):
            yield
    finally:
        _REPLACED.reset(token)


def keep_module(node: Node, source: Node) -> Node:
    """Lets a new node tell the module and the source line of the one that it replaces; returns it."""
    for key in ("nn_module_stack", "from_node", "stack_trace"):
        if key in source.meta:
            node.meta[key] = source.meta[key]
    return node


def complete_modules(graph_module: GraphModule) -> GraphModule:
    """Lets operators that tell no module, as torchao's quantisers do, tell that of what they read or who reads them."""
    nodes = [node for node in graph_module.graph.nodes if node.op == "call_function"]
    for order, neighbours in ((nodes, lambda node: node.all_input_nodes), (reversed(nodes), lambda node: node.users)):
        for node in order:
            source = next((other for other in neighbours(node) if other.meta.get("nn_module_stack")), None)
            if source is not None and not node.meta.get("nn_module_stack"):
                node.meta["nn_module_stack"] = source.meta["nn_module_stack"]
    return graph_module


def reshape(graph_module: GraphModule, node: Node, shape: Iterable[int]) -> Node:
    """Inserts a reshape to `shape`, or returns `node` when it has that shape."""
    sizes = list(shape)
    return node if list(shape_of(node)) == sizes else call(graph_module, aten.reshape.default, node, sizes)


def add_constant(graph_module: GraphModule, tensor: Tensor, name: str, trainable: bool = False) -> Node:
    """Registers `tensor` as a parameter (when trainable) or a buffer and inserts the get_attr node for it.

    Args:
        graph_module: The module that gets the tensor.
        tensor: The value; it is made contiguous and detached.
        name: Dotted name; the folder of modules must exist. A number is appended when the name is taken.
        trainable: Whether the tensor takes part in quantisation-aware training.

    Returns:
        The get_attr node, at the graph's insertion point.
    """
    path, _, stem = name.rpartition(".")
    owner = graph_module.get_submodule(path)
    attribute, suffix = stem, 0
    while hasattr(owner, attribute):
        suffix += 1
        attribute = f"{stem}_{suffix}"
    value = tensor.detach().clone(memory_format=torch.contiguous_format)
    if trainable and value.is_floating_point():
        owner.register_parameter(attribute, nn.Parameter(value))
    else:
        owner.register_buffer(attribute, value)
    node = graph_module.graph.get_attr(f"{path}.{attribute}" if path else attribute)
    node.meta["val"] = _fake_mode(graph_module).from_tensor(value, static_shapes=True)
    return node


def replace_constant(graph_module: GraphModule, node: Node, index: int, value: Tensor) -> None:
    """Gives an argument of one node another value; other users of the constant keep theirs."""
    old = node.args[index]
    assert isinstance(old, Node)
    with graph_module.graph.inserting_before(node):
        new = add_constant(graph_module, value, str(old.target), is_trainable(graph_module, old))
    node.update_arg(index, new)


def change_constant(graph_module: GraphModule, node: Node, index: int, change: Callable[[Tensor], Tensor]) -> None:
    """Replaces an argument of one node by `change` of it, which is computed in float64 and keeps the dtype."""
    old = constant(graph_module, node.args[index])  # type: ignore[arg-type]
    replace_constant(graph_module, node, index, change(old.double()).to(old.dtype))


def add_to_bias(graph_module: GraphModule, linear: Node, amount: Tensor) -> None:
    """Adds a vector [O] to the bias of a linear with constant parameters, which gets one where it has none."""
    bias = linear.args[2] if len(linear.args) > 2 else None
    if bias is not None:
        replace_constant(graph_module, linear, 2, constant(graph_module, bias) + amount)  # type: ignore[arg-type]
        return
    weight: Any = linear.args[1]
    with graph_module.graph.inserting_before(linear):
        new = add_constant(graph_module, amount, f"{weight.target}_bias", is_trainable(graph_module, weight))
    linear.args = (*linear.args[:2], new)


def add_linear(
    graph_module: GraphModule, like: Node, weight: Tensor, bias: Tensor | None, suffix: str, x: Node | None = None
) -> Node:
    """Inserts a linear on `x`, or on the input of the linear `like`, with its own weight [O, K] and bias [O]."""
    x, weight_node = x or like.args[0], like.args[1]  # type: ignore[assignment]
    trainable = is_trainable(graph_module, *like.args)
    new_weight = add_constant(graph_module, weight, f"{weight_node.target}_{suffix}", trainable)  # type: ignore[union-attr]
    if bias is None:
        return keep_module(call(graph_module, aten.linear.default, x, new_weight), like)
    bias_node = like.args[2] if len(like.args) > 2 else None
    name = bias_node.target if is_constant(bias_node) else f"{weight_node.target}_bias"  # type: ignore[union-attr]
    new_bias = add_constant(graph_module, bias, f"{name}_{suffix}", trainable)
    return keep_module(call(graph_module, aten.linear.default, x, new_weight, new_bias), like)


def linear_parameters(graph_module: GraphModule, node: Node) -> tuple[Tensor, Tensor | None] | None:
    """Weight [O, K] and bias [O] of a linear whose parameters are constants, else None."""
    if not is_call(node, aten.linear.default) or not is_constant(node.args[1]):
        return None
    bias = arguments(node)["bias"]
    if bias is not None and not is_constant(bias):
        return None
    weight = constant(graph_module, node.args[1])  # type: ignore[arg-type]
    return weight, None if bias is None else constant(graph_module, bias)


def first_result(node: Node) -> Node | None:
    """What is read of an operator that gives several values, if it is the first of them alone."""
    parts = [user for user in node.users if user.users]
    alone = len(parts) == 1 and is_call(parts[0], operator.getitem) and parts[0].args[1] == 0
    return parts[0] if alone else None


@contextlib.contextmanager
def compiled_once(graph_module: GraphModule) -> Iterator[None]:
    """Passes in this block look at the graph alone: its code is compiled behind the last one, not behind each."""
    if graph_module in _compiled_later:
        yield
        return
    _compiled_later.add(graph_module)
    try:
        yield
    finally:
        _compiled_later.remove(graph_module)
        graph_module.recompile()


def clean_up(graph_module: GraphModule) -> GraphModule:
    """Removes dead nodes and the parameters, buffers and modules that nothing uses, and recompiles."""
    graph_module.graph.eliminate_dead_code(_has_effect)
    used = {str(node.target) for node in graph_module.graph.nodes if node.op in ("get_attr", "call_module")}
    called = {str(node.target) for node in graph_module.graph.nodes if node.op == "call_module"}
    for path, module in list(graph_module.named_modules(remove_duplicate=False)):
        if any(path == target or path.startswith(f"{target}.") for target in called):
            continue
        own = [*module._parameters, *module._buffers, *(k for k, v in vars(module).items() if isinstance(v, Tensor))]
        for name in own:
            if (f"{path}.{name}" if path else name) not in used:
                delattr(module, name)
    _remove_empty_modules(graph_module, "", used)
    graph_module.graph.lint()
    if graph_module not in _compiled_later:
        graph_module.recompile()
    return graph_module


def signature(graph_module: GraphModule) -> list[tuple[Any, ...]]:
    """What the graph computes, without the names of its nodes: equal before and after a pass that changed nothing."""
    number = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    return [
        (node.op, str(node.target), repr(map_arg((node.args, node.kwargs), lambda argument: number[argument])))
        for node in number
    ]


def _has_effect(node: Node) -> bool:
    """Whether a node does more than return a value; drawing random numbers, as sdpa may, does not count."""
    if node.op != "call_function":
        return node.op in ("placeholder", "output", "call_module")
    schema = getattr(node.target, "_schema", None)
    return schema is not None and (schema.is_mutable or not schema.returns)


def is_part(node: Node) -> bool:
    """Whether a node takes one tensor out of an operator's list of results."""
    return is_call(node, operator.getitem)


def _remove_empty_modules(module: nn.Module, path: str, used: set[str]) -> bool:
    """Removes submodules that hold nothing; returns whether `module` is one of them."""
    for name, child in list(module.named_children()):
        child_path = f"{path}.{name}" if path else name
        if child_path not in used and _remove_empty_modules(child, child_path, used):
            delattr(module, name)
    return not (module._parameters or module._buffers or module._modules or _has_tensors(module))


def _has_tensors(module: nn.Module) -> bool:
    return any(isinstance(value, Tensor) for value in vars(module).values())


def _fake_mode(graph_module: GraphModule) -> FakeTensorMode:
    for node in graph_module.graph.nodes:
        if isinstance(value := node.meta.get("val"), FakeTensor):
            return value.fake_mode
    raise UnsupportedModelError(
        "no node of the graph has a fake tensor in meta['val']: take it from torch.export.export().module()"
    )
