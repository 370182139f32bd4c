"""Spells out that query heads share k and v."""

from __future__ import annotations

from torch.fx import GraphModule

from .graph import arguments, aten, call, clean_up, find, replacing, shape_of


def repeat_shared_heads(graph_module: GraphModule) -> GraphModule:
    """Repeats the heads of k and v where scaled_dot_product_attention does.

    before: scaled_dot_product_attention(q [B, H, Nq, d], k [B, G, Nk, d], v [B, G, Nk, dv], enable_gqa=True)
    after:  scaled_dot_product_attention(q, repeat_interleave(k, H / G, 1), repeat_interleave(v, H / G, 1))
    """
    for node in find(graph_module, aten.scaled_dot_product_attention.default):
        named = arguments(node)
        if not named["enable_gqa"]:
            continue
        heads = shape_of(named["query"])[-3]
        with replacing(graph_module, node):
            for name in ("key", "value"):
                repeats = heads // shape_of(named[name])[-3]
                if repeats > 1:
                    named[name] = call(graph_module, aten.repeat_interleave.self_int, named[name], repeats, -3)
            named["enable_gqa"] = False
            operands = [named.pop(name) for name in ("query", "key", "value")]
            repeated = call(graph_module, aten.scaled_dot_product_attention.default, *operands, **named)
        node.replace_all_uses_with(repeated)
    return clean_up(graph_module)
