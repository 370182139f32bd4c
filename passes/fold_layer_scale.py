"""Folds LayerScale into the linear before it."""

from torch.fx import GraphModule, Node

from .graph import (
    add_constant,
    aten,
    call,
    clean_up,
    constant,
    find,
    is_call,
    is_constant,
    is_trainable,
    keep_module,
    linear_parameters,
    shape_of,
)


def fold_layer_scale(graph_module: GraphModule) -> GraphModule:
    """Multiplies the rows of a linear's weight and its bias with the vector that scales its output.

    A linear that something else reads keeps its weight. A single number is not LayerScale: it stays where it is.

    before: linear(x, weight, bias) -> mul(gamma [D] or [1, 1, D])
    after:  linear(x, weight * gamma[:, None], bias * gamma)
    """
    for node in find(graph_module, aten.mul.Tensor):
        pair = _scaled_linear(node)
        if pair is None:
            continue
        linear, gamma_node = pair
        parameters = linear_parameters(graph_module, linear)
        if parameters is None:
            continue
        weight, bias = parameters
        gamma = constant(graph_module, gamma_node).flatten()
        trainable = is_trainable(graph_module, gamma_node, *linear.args)
        with graph_module.graph.inserting_before(linear):
            args = [add_constant(graph_module, weight * gamma[:, None], f"{linear.args[1].target}_scaled", trainable)]  # type: ignore[union-attr]
            if bias is not None:
                args.append(add_constant(graph_module, bias * gamma, f"{linear.args[2].target}_scaled", trainable))  # type: ignore[union-attr]
            folded = keep_module(call(graph_module, aten.linear.default, linear.args[0], *args), linear)
        node.replace_all_uses_with(folded)
    return clean_up(graph_module)


def _scaled_linear(node: Node) -> tuple[Node, Node] | None:
    """The linear and the vector of its output features that `node` multiplies."""
    for linear, gamma in (node.args, node.args[::-1]):
        if is_call(linear, aten.linear.default) and is_constant(gamma) and len(linear.users) == 1:  # type: ignore[union-attr]
            features, shape = shape_of(linear)[-1], shape_of(gamma)  # type: ignore[arg-type]
            if features > 1 and shape[-1:] == (features,) and gamma.meta["val"].numel() == features:  # type: ignore[union-attr]
                return (linear, gamma) if shape_of(node) == shape_of(linear) else None  # type: ignore[arg-type, return-value]
    return None
