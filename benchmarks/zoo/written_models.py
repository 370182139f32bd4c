"""torchvision's models, and what people write themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry, noise, randomize


class Encoder(nn.Module):
    """PyTorch's own encoder, with a head on the mean of its tokens."""

    def __init__(self, *, norm_first: bool = True) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(192, 3, 768, 0.0, "gelu", batch_first=True, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(192), enable_nested_tensor=False)
        self.head = nn.Linear(192, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, 192] -> [B, 10]."""
        return self.head(self.layers(x).mean(1))


class PatchEncoder(nn.Module):
    """The same on patches of a picture."""

    def __init__(self, *, norm_first: bool = True) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 192, 16, 16)
        self.positions = nn.Parameter(torch.zeros(1, 196, 192))
        self.encoder = Encoder(norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 224, 224] -> [B, 10]."""
        return self.encoder(self.patches(x).flatten(2).transpose(1, 2) + self.positions)


class LinearPatches(nn.Module):
    """Patches by a reshape and a linear layer, with or without norms around it, and a class token."""

    def __init__(self, *, norms: bool) -> None:
        super().__init__()
        self.before = nn.LayerNorm(768) if norms else nn.Identity()
        self.patches = nn.Linear(768, 192)
        self.behind = nn.LayerNorm(192) if norms else nn.Identity()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 192))
        self.positions = nn.Parameter(torch.zeros(1, 197 if norms else 1, 192))
        self.encoder = Encoder()

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, 224, 224] -> [B, 10]."""
        batch = len(x)
        x = x.reshape(batch, 3, 14, 16, 14, 16).permute(0, 2, 4, 3, 5, 1).reshape(batch, 196, 768)
        x = self.behind(self.patches(self.before(x)))
        return self.encoder(torch.cat([self.class_token.expand(batch, -1, -1), x], 1) + self.positions)


def plain() -> Iterator[Entry]:
    """Vision Transformers with one sequence of tokens."""
    yield Entry("torchvision VisionTransformer, 2 layers", _torchvision_vit())
    yield Entry("torchvision vit_b_16", _torchvision("vit_b_16"))
    yield Entry("nn.TransformerEncoder on patches", lambda: randomize(PatchEncoder()))
    yield Entry("nn.TransformerEncoder on patches, post-norm", lambda: randomize(PatchEncoder(norm_first=False)))
    yield Entry("patches by a linear layer", lambda: randomize(LinearPatches(norms=False)))
    yield Entry("patches by a linear layer between norms", lambda: randomize(LinearPatches(norms=True)))


def windows() -> Iterator[Entry]:
    """Swin Transformers."""
    yield Entry("torchvision swin_t", _torchvision("swin_t"))
    yield Entry("torchvision swin_v2_t", _torchvision("swin_v2_t"), (256, 256))


def hybrids() -> Iterator[Entry]:
    """With convolutions."""
    yield Entry("torchvision VisionTransformer, stem of convolutions", _torchvision_vit(stem=(24, 48, 96, 192)))


def sequences() -> Iterator[Entry]:
    """Of embeddings."""
    for name, norm_first in (("nn.TransformerEncoder", True), ("nn.TransformerEncoder, post-norm", False)):
        yield Entry(name, _encoder(norm_first), inputs=noise(32, 192))


def _encoder(norm_first: bool) -> Callable[[], nn.Module]:
    return lambda: randomize(Encoder(norm_first=norm_first))


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return randomize(getattr(models, name)(weights=None))

    return build


def _torchvision_vit(stem: tuple[int, ...] = ()) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models.vision_transformer import ConvStemConfig, VisionTransformer

        options: dict[str, Any] = {"conv_stem_configs": [ConvStemConfig(width, 3, 2) for width in stem]} if stem else {}
        return randomize(VisionTransformer(224, 16, 2, 3, 192, 768, **options))

    return build
