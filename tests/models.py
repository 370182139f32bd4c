"""Vision Transformers for tests: micro sizes of timm's, Hugging Face's and torchvision's, and hand-written ones."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import torchvision_stub  # noqa: F401  (before timm and torchvision)
from packqvit_delegate.passes import functionalize_graph

MICRO = {"image": 32, "patch": 8, "dim": 48, "depth": 2, "heads": 3, "classes": 10}


def images(batch: int = 2, size: int = MICRO["image"], seed: int = 0) -> Tensor:
    """Random images [batch, 3, size, size]."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every parameter a value that matters: fresh models have zero biases and tokens and LayerScales near 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 and "bias" not in name:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() in (2, 4):
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * noise)
    return model.eval()


def export(model: nn.Module, inputs: Tensor | None = None) -> GraphModule:
    """The float graph of a model in eval mode, without writes."""
    inputs = images() if inputs is None else inputs
    return functionalize_graph(torch.export.export(model.eval(), (inputs,)).module())


class Logits(nn.Module):
    """A Hugging Face model that takes pixels and returns a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def timm_model(name: str, fused_attention: bool = True, **overrides: Any) -> nn.Module:
    """A timm model of micro size."""
    import timm

    sizes = {
        "img_size": MICRO["image"],
        "patch_size": MICRO["patch"],
        "embed_dim": MICRO["dim"],
        "depth": MICRO["depth"],
        "num_heads": MICRO["heads"],
        "num_classes": MICRO["classes"],
    }
    model = timm.create_model(name, **{**sizes, **overrides})
    for block in model.blocks:
        block.attn.fused_attn = fused_attention
    return randomize(model)


def full_model(name: str) -> nn.Module:
    """A timm model as it is published, with random weights."""
    import timm

    return randomize(timm.create_model(name))


def hugging_face_model(name: str, attention: str = "sdpa", **overrides: Any) -> nn.Module:
    """A Hugging Face image classifier of micro size: `name` is "ViT", "DeiT", "DeiTWithTeacher", "Dinov2" and so on."""
    import transformers

    family = name.removesuffix("WithTeacher")
    suffix = "ForImageClassification" + ("WithTeacher" if name != family else "")
    sizes: dict[str, Any] = {
        "hidden_size": MICRO["dim"],
        "num_hidden_layers": MICRO["depth"],
        "num_attention_heads": MICRO["heads"],
        "image_size": MICRO["image"],
        "patch_size": MICRO["patch"],
        "num_labels": MICRO["classes"],
        "attn_implementation": attention,
    }
    if not family.startswith("Dinov2"):
        sizes["intermediate_size"] = 2 * MICRO["dim"]
    config = getattr(transformers, f"{family}Config")(**{**sizes, **overrides})
    model = getattr(transformers, f"{family}{suffix}")(config)
    return Logits(randomize(model)).eval()


def torchvision_model() -> nn.Module:
    """torchvision's ViT of micro size: its attention is torch.nn.MultiheadAttention."""
    from torchvision.models import VisionTransformer

    return randomize(
        VisionTransformer(
            MICRO["image"],
            MICRO["patch"],
            MICRO["depth"],
            MICRO["heads"],
            MICRO["dim"],
            2 * MICRO["dim"],
            num_classes=MICRO["classes"],
        )
    )


@dataclass(frozen=True)
class Style:
    """How a hand-written Vision Transformer spells its parts.

    Attributes:
        projection: "separate", "reshape", "chunk", "split", "slice", "interleaved" ([H, 3, d]), "last" ([H, d, 3]),
            "query_and_kv" (q apart, k and v fused) or "value_first".
        attention: "sdpa", "softmax", "scaled_query", "scaled_key", "divided", "bmm", "baddbmm" or "masked" (a constant
            mask).
        output: "transpose", "permute" or "rows" (computes the output projection on [B * N, D]).
        embedding: "cat_add", "add_cat", "none", "registers" or "no_position".
        layer_scale: Whether the branches are scaled.
        residual: "stream", "branch" (branch first), "scaled" (branch + 0.5 * stream) or "in_place".
        activation: "gelu", "tanh", "erf" or "new" (GELU's definitions), "quick" (x * sigmoid(1.702 x)), or the name of
            another one of torch.nn.functional.
        pool: "token", "mean" or "slice" (the class token as a slice).
        bias: Whether q, k and v have a bias.
        heads: Number of heads.
        value_dim: Channels of a value head, where q, k and v are "separate" or "split"; 0: as many as q's have.
    """

    projection: str = "separate"
    attention: str = "softmax"
    output: str = "transpose"
    embedding: str = "cat_add"
    layer_scale: bool = False
    residual: str = "stream"
    activation: str = "gelu"
    pool: str = "token"
    bias: bool = True
    heads: int = MICRO["heads"]
    value_dim: int = 0


class PlainAttention(nn.Module):
    """Self-attention in a given style."""

    def __init__(self, dim: int, tokens: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.scale = (dim // style.heads) ** -0.5
        values = style.heads * style.value_dim or dim
        if style.projection in ("separate", "query_and_kv"):
            self.q = nn.Linear(dim, dim, bias=style.bias)
        if style.projection == "separate":
            self.k = nn.Linear(dim, dim, bias=style.bias)
            self.v = nn.Linear(dim, values, bias=style.bias)
        elif style.projection == "query_and_kv":
            self.kv = nn.Linear(dim, 2 * dim, bias=style.bias)
        else:
            self.qkv = nn.Linear(dim, 2 * dim + values, bias=style.bias)
        self.proj = nn.Linear(values, dim)
        mask = torch.randn(style.heads, tokens, tokens, generator=torch.Generator().manual_seed(1))
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        o = self._attend(*self._project(x))
        b, h, n, d = o.shape
        if self.style.output == "permute":
            return self.proj(o.permute(0, 2, 1, 3).contiguous().view(b, n, h * d))
        if self.style.output == "rows":
            return self.proj(o.transpose(1, 2).reshape(b * n, h * d)).view(b, n, h * d)
        return self.proj(o.transpose(1, 2).flatten(2))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k, v as [B, H, N, d]."""
        b, n, dim = x.shape
        h, d = self.style.heads, dim // self.style.heads
        projection = self.style.projection
        if projection == "reshape":
            return self.qkv(x).reshape(b, n, 3, h, d).permute(2, 0, 3, 1, 4).unbind(0)
        if projection == "interleaved":
            return self.qkv(x).view(b, n, h, 3, d).transpose(1, 2).unbind(3)
        if projection == "last":
            qkv = self.qkv(x).unflatten(-1, (h, d, 3))
            return tuple(qkv[..., i].swapaxes(1, 2) for i in range(3))
        if projection == "value_first":
            v, k, q = self.qkv(x).view(b, n, 3, h, d).movedim(2, 0)
            return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if projection == "separate":
            parts = self.q(x), self.k(x), self.v(x)
        elif projection == "query_and_kv":
            parts = (self.q(x), *self.kv(x).chunk(2, -1))
        elif projection == "chunk":
            parts = self.qkv(x).chunk(3, -1)
        elif projection == "split":
            parts = self.qkv(x).split([dim, dim, self.proj.in_features], dim=-1)
        else:
            qkv = self.qkv(x)
            parts = qkv[..., :dim], qkv[..., dim : 2 * dim], qkv[..., 2 * dim :]
        return tuple(part.view(b, n, h, -1).transpose(1, 2) for part in parts)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, H, N, d]."""
        b, h, n, d = q.shape
        attention = self.style.attention
        if attention == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        if attention == "masked":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, scale=0.3)
        if attention == "scaled_query":
            return ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        if attention == "scaled_key":
            return (q @ (self.scale * k).permute(0, 1, 3, 2)).softmax(dim=3) @ v
        if attention == "divided":
            return torch.softmax(q @ k.mT / d**0.5 + self.mask, -1) @ v
        if attention in ("bmm", "baddbmm"):
            q, k, v = (part.reshape(b * h, n, d) for part in (q, k, v))
            k = k.transpose(1, 2)
            if attention == "bmm":
                scores = torch.bmm(q * self.scale, k)
            else:
                scores = torch.baddbmm(self.mask.repeat(b, 1, 1), q, k, alpha=self.scale)
            return torch.bmm(scores.softmax(-1), v).view(b, h, n, d)
        return F.dropout((q @ k.transpose(-2, -1) * self.scale).softmax(-1), 0.1, self.training) @ v


class PlainBlock(nn.Module):
    """An encoder block in a given style."""

    def __init__(self, dim: int, tokens: int, style: Style) -> None:
        super().__init__()
        self.style = style
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = PlainAttention(dim, tokens, style)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        if style.layer_scale:
            self.gamma1, self.gamma2 = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(1, 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.attention(self.norm1(x))
        x = self._add(x, F.dropout(branch, 0.1, self.training) * self.gamma1 if self.style.layer_scale else branch)
        branch = self.fc2(self._activation(self.fc1(self.norm2(x))))
        return self._add(x, self.gamma2 * branch if self.style.layer_scale else branch)

    def _add(self, stream: Tensor, branch: Tensor) -> Tensor:
        if self.style.residual == "in_place":
            stream += branch
            return stream
        if self.style.residual == "scaled":
            return branch + 0.5 * stream
        return branch + stream if self.style.residual == "branch" else stream + branch

    def _activation(self, x: Tensor) -> Tensor:
        activation = self.style.activation
        if activation == "erf":
            return x * 0.5 * (1.0 + torch.erf(x / 2**0.5))
        if activation == "new":
            return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3.0))))
        if activation == "quick":
            return x * torch.sigmoid(1.702 * x)
        if activation in ("gelu", "tanh"):
            return F.gelu(x, approximate="tanh" if activation == "tanh" else "none")
        return getattr(F, activation)(x)


class PlainViT(nn.Module):
    """A hand-written Vision Transformer of micro size."""

    def __init__(self, style: Style, dim: int = MICRO["dim"], depth: int = MICRO["depth"]) -> None:
        super().__init__()
        patches = (MICRO["image"] // MICRO["patch"]) ** 2
        self.style = style
        self.patch = nn.Conv2d(3, dim, MICRO["patch"], MICRO["patch"])
        prefix = {"none": 0, "no_position": 1, "registers": 4}.get(style.embedding, 1)
        positions = {"add_cat": 0, "none": 0, "registers": 1}.get(style.embedding, prefix) + patches
        self.token = nn.Parameter(torch.zeros(1, 1, dim)) if prefix else None
        self.registers = nn.Parameter(torch.zeros(1, 3, dim)) if style.embedding == "registers" else None
        self.position = nn.Parameter(torch.zeros(1, positions, dim)) if style.embedding != "no_position" else None
        self.blocks = nn.ModuleList(PlainBlock(dim, prefix + patches, style) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, MICRO["classes"])

    def forward(self, x: Tensor) -> Tensor:
        x = self._embed(self.patch(x))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.style.pool == "mean":
            return self.head(x.mean(dim=1))
        return self.head(x[:, 0:1].squeeze(1) if self.style.pool == "slice" else x[:, 0])

    def _embed(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        embedding, batch = self.style.embedding, x.shape[0]
        if embedding == "none":
            return x + self.position
        token = self.token.expand(batch, -1, -1)
        if embedding == "add_cat":
            return torch.cat([token, x + self.position], 1)
        x = torch.cat([token, x], 1)
        if embedding == "no_position":
            return x
        x = x + self.position
        if embedding == "registers":
            return torch.cat([x[:, :1], self.registers.expand(batch, -1, -1), x[:, 1:]], 1)
        return x


def plain_model(**style: Any) -> nn.Module:
    """A hand-written Vision Transformer; see `Style`."""
    return randomize(PlainViT(replace(Style(), **style)))


class Tower(nn.Module):
    """`plain_model` without its head, giving what `gives` makes of its tokens; with `head` beside these."""

    def __init__(self, gives: Callable[[Tensor], Any] = lambda tokens: tokens[:, 0], *, head: bool = False) -> None:
        super().__init__()
        self.model, self.gives, self.has_head = plain_model(), gives, head

    def forward(self, x: Tensor) -> Any:
        x = self.model._embed(self.model.patch(x))
        for block in self.model.blocks:
            x = block(x)
        x = self.model.norm(x)
        return (self.gives(x), self.model.head(x[:, 0])) if self.has_head else self.gives(x)


@dataclass(frozen=True)
class Case:
    """A model and what its canonical graph holds.

    Attributes:
        build: Makes the model.
        prefix: Number of constant tokens before the patches.
        depth: Number of blocks.
        head_linears: Number of linears behind the last block.
        norms: Number of layer_norm operators.
        image: Side of the image.
    """

    build: Callable[[], nn.Module]
    prefix: int = 1
    depth: int = MICRO["depth"]
    head_linears: int = 1
    norms: int = 2 * MICRO["depth"] + 1
    image: int = MICRO["image"]


_TIMM = "vit_tiny_patch16_224"
_DISTILLED = {"prefix": 2, "head_linears": 2}

CASES: dict[str, Case] = {
    "timm_vit": Case(lambda: timm_model(_TIMM)),
    "timm_vit_explicit": Case(lambda: timm_model(_TIMM, fused_attention=False)),
    "timm_vit_patch16": Case(lambda: timm_model(_TIMM, patch_size=16, embed_dim=64, num_heads=4)),
    "timm_vit_no_qkv_bias": Case(lambda: timm_model(_TIMM, qkv_bias=False)),
    "timm_vit_one_head": Case(lambda: timm_model(_TIMM, num_heads=1)),
    "timm_vit_dynamic_size": Case(lambda: timm_model(_TIMM, dynamic_img_size=True)),
    "timm_deit": Case(lambda: timm_model("deit_tiny_patch16_224")),
    "timm_deit_distilled": Case(lambda: timm_model("deit_tiny_distilled_patch16_224"), **_DISTILLED),
    "timm_no_class_token": Case(lambda: timm_model(_TIMM, class_token=False, global_pool="avg"), prefix=0),
    "timm_registers": Case(
        lambda: timm_model(_TIMM, reg_tokens=4, no_embed_class=True, global_pool="avg", init_values=1e-5), prefix=5
    ),
    "timm_dinov2": Case(lambda: timm_model("vit_small_patch14_dinov2")),
    "timm_dinov2_registers": Case(lambda: timm_model("vit_small_patch14_reg4_dinov2"), prefix=5),
    "timm_pre_norm": Case(lambda: timm_model(_TIMM, pre_norm=True), norms=2 * MICRO["depth"] + 2),
    "hf_vit": Case(lambda: hugging_face_model("ViT")),
    "hf_vit_eager": Case(lambda: hugging_face_model("ViT", "eager")),
    "hf_vit_gelu_new": Case(lambda: hugging_face_model("ViT", hidden_act="gelu_new")),
    "hf_deit": Case(lambda: hugging_face_model("DeiT"), prefix=2),
    "hf_deit_eager": Case(lambda: hugging_face_model("DeiT", "eager"), prefix=2),
    "hf_deit_with_teacher": Case(lambda: hugging_face_model("DeiTWithTeacher"), **_DISTILLED),
    "hf_dinov2": Case(lambda: hugging_face_model("Dinov2"), head_linears=2),
    "hf_dinov2_eager": Case(lambda: hugging_face_model("Dinov2", "eager"), head_linears=2),
    "hf_dinov2_registers": Case(
        lambda: hugging_face_model("Dinov2WithRegisters", num_register_tokens=4),
        prefix=5,
        head_linears=2,
    ),
    "torchvision_vit": Case(torchvision_model),
    "plain": Case(plain_model),
    **{
        f"plain_{name}": Case(lambda name=name: plain_model(projection=name))
        for name in (
            "reshape",
            "chunk",
            "split",
            "slice",
            "interleaved",
            "last",
            "value_first",
            "query_and_kv",
        )
    },
    **{
        f"plain_{name}": Case(lambda name=name: plain_model(attention=name, projection="chunk"))
        for name in ("sdpa", "masked", "scaled_query", "scaled_key", "divided", "bmm", "baddbmm")
    },
    "plain_bmm_interleaved": Case(lambda: plain_model(attention="bmm", projection="interleaved", bias=False)),
    "plain_output_permute": Case(lambda: plain_model(output="permute")),
    "plain_output_rows": Case(lambda: plain_model(output="rows", projection="reshape")),
    "plain_add_cat": Case(lambda: plain_model(embedding="add_cat")),
    "plain_no_prefix": Case(lambda: plain_model(embedding="none", pool="mean"), prefix=0),
    "plain_no_position": Case(lambda: plain_model(embedding="no_position")),
    "plain_registers": Case(lambda: plain_model(embedding="registers"), prefix=4),
    "plain_layer_scale": Case(lambda: plain_model(layer_scale=True, projection="reshape", attention="sdpa")),
    "plain_branch_first": Case(lambda: plain_model(residual="branch", layer_scale=True)),
    "plain_in_place": Case(lambda: plain_model(residual="in_place")),
    "plain_tanh": Case(lambda: plain_model(activation="tanh")),
    "plain_erf": Case(lambda: plain_model(activation="erf")),
    "plain_new": Case(lambda: plain_model(activation="new")),
    "plain_sliced_token": Case(lambda: plain_model(pool="slice")),
    "plain_one_head": Case(lambda: plain_model(heads=1, projection="chunk", attention="bmm")),
    "plain_mean": Case(lambda: plain_model(pool="mean")),
}
FULL_CASES: dict[str, Case] = {
    "deit_tiny": Case(lambda: full_model("deit_tiny_patch16_224"), depth=12, norms=25, image=224),
    "deit_tiny_distilled": Case(
        lambda: full_model("deit_tiny_distilled_patch16_224"), depth=12, norms=25, image=224, **_DISTILLED
    ),
}

logging.getLogger("torch.export").setLevel(logging.ERROR)


def timm_swin() -> nn.Module:
    """timm's Swin Transformer of micro size: windows of 4 x 4 tokens."""
    import timm

    return randomize(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=24,
            depths=(2, 2),
            num_heads=(2, 4),
            num_classes=10,
        )
    )


def hugging_face_swin() -> nn.Module:
    """Hugging Face's, which merges patches by slices and a concatenation."""
    import transformers

    config = transformers.SwinConfig(
        image_size=32, window_size=4, embed_dim=24, depths=[2, 2], num_heads=[2, 4], num_labels=10
    )
    return Logits(randomize(transformers.SwinForImageClassification(config)))


def torchvision_swin() -> nn.Module:
    """torchvision's, which makes its masks anew at every call, in place."""
    import torchvision

    return randomize(
        torchvision.models.SwinTransformer(
            patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=10
        )
    )
