"""A Swin Transformer whose parameters carry timm's names, so that timm's and Microsoft's weights load into it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from packqvit_delegate.arguments import check_fields
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models.vit import Mlp


@dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin Transformer; the defaults are Swin-T.

    `dim` is the width of the first stage; each stage has twice the channels and the heads of the one before, and half
    the rows and columns of tokens.
    """

    image_size: int = 224
    patch_size: int = 4
    in_channels: int = 3
    num_classes: int = 1000
    window: int = 7
    dim: int = 96
    heads: int = 3
    depths: tuple[int, ...] = (2, 2, 6, 2)
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        """Checks that sizes are positive and heads divide the channels."""
        check_fields(self)
        for field in fields(self):
            value = getattr(self, field.name)
            if any(size < 1 for size in (value if isinstance(value, tuple) else (value,))) or value == ():
                raise PackQViTError(f"{field.name} is {value}, but must be at least 1")
        if self.image_size % self.patch_size:
            raise PackQViTError(f"image size {self.image_size} is not a multiple of patch size {self.patch_size}")
        if self.dim % self.heads:
            raise PackQViTError(f"{self.dim} channels cannot be divided among {self.heads} heads")

    def build(self) -> nn.Module:
        """The model, with random weights."""
        return SwinTransformer(self)


class PatchEmbed(nn.Module):
    """[B, in_channels, S, S] -> [B, S / patch, S / patch, dim]."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_channels, config.dim, config.patch_size, config.patch_size)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Embeds every patch."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Puts 2 x 2 tokens side by side and halves the channels: [B, h, w, C] -> [B, h / 2, w / 2, 2 C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of odd height or width get a row or column of zeros."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class WindowAttention(nn.Module):
    """Self-attention within windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.window = window

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B * windows, N, dim] -> the same; mask: what is added to the scores, [windows, N, N], or None."""
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        bias = self.relative_position_bias_table[self.offsets()].permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1)).repeat(batch // len(mask), 1, 1, 1)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, dim))

    def offsets(self) -> Tensor:
        """Which of the (2 * window - 1)^2 offsets each pair of tokens of a window has, int64 [N, N]."""
        side = torch.arange(self.window)
        rows, columns = (x.flatten() for x in torch.meshgrid(side, side, indexing="ij"))
        row, column = (x[:, None] - x[None] + self.window - 1 for x in (rows, columns))
        return row * (2 * self.window - 1) + column


def shift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Keeps tokens apart that only the cyclic shift brought into one window: float32 [windows, N, N], 0 or -100."""
    region = torch.zeros(height, width)
    parts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(parts):
        for j, columns in enumerate(parts):
            region[rows, columns] = 3 * i + j
    windows = region.reshape(height // window, window, width // window, window).transpose(1, 2).reshape(-1, window**2)
    return (windows.unsqueeze(1) != windows.unsqueeze(2)) * -100.0


class Block(nn.Module):
    """One block: attention in windows, shifted or not, then the MLP, each normalised before."""

    def __init__(self, config: SwinConfig, stage: int, size: int, shifts: bool) -> None:
        super().__init__()
        dim = config.dim << stage
        self.window = min(config.window, size)
        self.shift = config.window // 2 if shifts and size > config.window else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, config.heads << stage, self.window)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, config.mlp_ratio)
        padded = size + -size % self.window
        mask = shift_mask(padded, padded, self.window, self.shift) if self.shift else None
        self.register_buffer("attn_mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, h, w, C]."""
        x = x + self._in_windows(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _in_windows(self, x: Tensor) -> Tensor:
        """Maps that windows do not tile get zeros at the bottom and at the right, which take part like other tokens."""
        batch, height, width, channels = x.shape
        window, shift = self.window, self.shift
        x = torch.roll(x, (-shift, -shift), (1, 2)) if shift else x
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1] // window, x.shape[2] // window
        x = x.reshape(batch, rows, window, columns, window, channels).transpose(2, 3)
        x = self.attn(x.reshape(-1, window**2, channels), self.attn_mask)
        x = x.reshape(batch, rows, columns, window, window, channels).transpose(2, 3)
        x = x.reshape(batch, rows * window, columns * window, channels)[:, :height, :width]
        return torch.roll(x, (shift, shift), (1, 2)) if shift else x


class Stage(nn.Module):
    """Merging of patches, but for the first stage, and blocks of which every other one is shifted."""

    def __init__(self, config: SwinConfig, stage: int, size: int) -> None:
        super().__init__()
        self.downsample = PatchMerging(config.dim << (stage - 1)) if stage else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, stage, size, i % 2 == 1) for i in range(config.depths[stage]))

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, h / 2, w / 2, 2 C], or the same shape in the first stage."""
        x = self.downsample(x)
        for block in self.blocks:
            x = block(x)
        return x


class Head(nn.Module):
    """The classifier on the mean of all tokens."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, h, w, C] -> [B, classes]."""
        return self.fc(x.mean((1, 2)))


class SwinTransformer(nn.Module):
    """Swin Transformer for classification.

    Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
    """

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        stages, size = [], config.image_size // config.patch_size
        for stage in range(len(config.depths)):
            size = (size + 1) // 2 if stage else size
            stages.append(Stage(config, stage, size))
        self.layers = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(config.dim << (len(config.depths) - 1))
        self.head = Head(config.dim << (len(config.depths) - 1), config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classifies images.

        Args:
            x: float32 [B, in_channels, image_size, image_size], normalised.

        Returns:
            float32 [B, num_classes], the logits.
        """
        return self.head(self.norm(self.layers(self.patch_embed(x))))
