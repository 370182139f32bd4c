"""The models known by a short name: their sizes, their preprocessing and where their weights are published."""

from __future__ import annotations

from dataclasses import dataclass

from packqvit_delegate.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from packqvit_delegate.models.vit import ViTConfig


@dataclass(frozen=True)
class Entry:
    """One named model."""

    config: ViTConfig
    preprocessing: Preprocessing
    repository: str
    """The Hugging Face repository with `model.safetensors` in timm's key names."""


TINY = ViTConfig(dim=192, heads=3)
SMALL = ViTConfig(dim=384, heads=6)
BASE = ViTConfig(dim=768, heads=12)
DEIT = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
VIT = Preprocessing(mean=HALF, std=HALF)

ZOO = {
    "deit_tiny": Entry(TINY, DEIT, "timm/deit_tiny_patch16_224.fb_in1k"),
    "deit_small": Entry(SMALL, DEIT, "timm/deit_small_patch16_224.fb_in1k"),
    "deit_base": Entry(BASE, DEIT, "timm/deit_base_patch16_224.fb_in1k"),
    "vit_tiny": Entry(TINY, VIT, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    "vit_small": Entry(SMALL, VIT, "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"),
    "vit_base": Entry(BASE, VIT, "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
}
