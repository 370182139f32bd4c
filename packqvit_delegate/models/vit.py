"""A plain Vision Transformer whose parameters carry timm's names, so that timm's and DeiT's weights load into it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packqvit_delegate.arguments import check_fields
from packqvit_delegate.errors import PackQViTError


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a Vision Transformer; the defaults are ViT-Tiny / DeiT-Tiny.

    `distilled`: with a distillation token behind the class token, and a head of its own (DeiT).
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    dim: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: int = 4
    distilled: bool = False

    def __post_init__(self) -> None:
        """Checks that sizes are positive, patches tile the image and heads divide the channels."""
        check_fields(self)
        for field in fields(self):
            if field.name != "distilled" and getattr(self, field.name) < 1:
                raise PackQViTError(f"{field.name} is {getattr(self, field.name)}, but must be at least 1")
        if self.image_size % self.patch_size:
            raise PackQViTError(f"image size {self.image_size} is not a multiple of patch size {self.patch_size}")
        if self.dim % self.heads:
            raise PackQViTError(f"{self.dim} channels cannot be divided among {self.heads} heads")

    def build(self) -> nn.Module:
        """The model, with random weights."""
        return VisionTransformer(self)

    @property
    def tokens(self) -> int:
        """Number of tokens, the class token and the distillation token included."""
        return (self.image_size // self.patch_size) ** 2 + self.prefix

    @property
    def prefix(self) -> int:
        """Number of tokens in front of the patches."""
        return 2 if self.distilled else 1


class PatchEmbed(nn.Module):
    """[B, in_channels, S, S] -> [B, (S / patch)^2, dim]."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dim, config.patch_size, config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds every patch."""
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused query-key-value projection."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        x = F.scaled_dot_product_attention(query, key, value)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """One encoder block, normalised before each branch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=1e-6)
        self.mlp = Mlp(config.dim, config.mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] -> [B, N, dim]."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """ViT and DeiT for classification; the distilled DeiT answers with the mean of its two heads.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; Touvron et al., "Training data-efficient
    image transformers", ICML 2021.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.dist_token = nn.Parameter(torch.empty(1, 1, config.dim)) if config.distilled else None
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens, config.dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.head = nn.Linear(config.dim, config.num_classes)
        self.head_dist = nn.Linear(config.dim, config.num_classes) if config.distilled else None
        self._initialize()

    def _initialize(self) -> None:
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        if self.dist_token is not None:
            nn.init.normal_(self.dist_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies images.

        Args:
            x: float32 [B, in_channels, image_size, image_size], normalised.

        Returns:
            float32 [B, num_classes], the logits.
        """
        x = self.patch_embed(x)
        tokens = [token for token in (self.cls_token, self.dist_token) if token is not None]
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in tokens), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        logits = self.head(x[:, 0])
        return logits if self.head_dist is None else (logits + self.head_dist(x[:, 1])) / 2
