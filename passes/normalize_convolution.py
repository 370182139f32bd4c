"""Spells out the padding of convolutions that name it."""

from torch.fx import GraphModule

from .graph import arguments, aten, call, clean_up, find, keep_module, shape_of


def normalize_convolution(graph_module: GraphModule) -> GraphModule:
    """Replaces the padding "valid", and "same" where that is none, by zeros.

    before: conv2d.padding(x, weight, bias, stride, "valid", dilation, groups)
    after:  conv2d.default(x, weight, bias, stride, [0, 0], dilation, groups)
    """
    for node in find(graph_module, aten.conv2d.padding):
        given = arguments(node)
        kernel = shape_of(given["weight"])[2:]
        if given["padding"] != "valid" and any(size != 1 for size in kernel):
            continue  # "same", which torch has for a stride of 1 only: no patches
        with graph_module.graph.inserting_before(node):
            spelled = call(
                graph_module,
                aten.conv2d.default,
                *(given[name] for name in ("input", "weight", "bias", "stride")),
                [0, 0],
                given["dilation"],
                given["groups"],
            )
        node.replace_all_uses_with(keep_module(spelled, node))
    return clean_up(graph_module)
