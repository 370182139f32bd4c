"""The models known by a short name: their sizes, their preprocessing and where their weights are published."""

from __future__ import annotations

from dataclasses import dataclass, replace

from packqvit_delegate.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from packqvit_delegate.models.swin import SwinConfig
from packqvit_delegate.models.vit import ViTConfig


@dataclass(frozen=True)
class Entry:
    """One named model."""

    config: ViTConfig | SwinConfig
    preprocessing: Preprocessing
    repository: str
    """The Hugging Face repository with `model.safetensors` in timm's key names."""


TINY = ViTConfig(dim=192, heads=3)
SMALL = ViTConfig(dim=384, heads=6)
BASE = ViTConfig(dim=768, heads=12)
DISTILLED_TINY, DISTILLED_SMALL, DISTILLED_BASE = (replace(c, distilled=True) for c in (TINY, SMALL, BASE))
SWIN_TINY = SwinConfig()
SWIN_SMALL = SwinConfig(depths=(2, 2, 18, 2))
SWIN_BASE = SwinConfig(dim=128, heads=4, depths=(2, 2, 18, 2))
DEIT = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
VIT = Preprocessing(mean=HALF, std=HALF)
SWIN = DEIT

ZOO = {
    "deit_tiny": Entry(TINY, DEIT, "timm/deit_tiny_patch16_224.fb_in1k"),
    "deit_small": Entry(SMALL, DEIT, "timm/deit_small_patch16_224.fb_in1k"),
    "deit_base": Entry(BASE, DEIT, "timm/deit_base_patch16_224.fb_in1k"),
    "deit_tiny_distilled": Entry(DISTILLED_TINY, DEIT, "timm/deit_tiny_distilled_patch16_224.fb_in1k"),
    "deit_small_distilled": Entry(DISTILLED_SMALL, DEIT, "timm/deit_small_distilled_patch16_224.fb_in1k"),
    "deit_base_distilled": Entry(DISTILLED_BASE, DEIT, "timm/deit_base_distilled_patch16_224.fb_in1k"),
    "vit_tiny": Entry(TINY, VIT, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    "vit_small": Entry(SMALL, VIT, "timm/vit_small_patch16_224.augreg_in21k_ft_in1k"),
    "vit_base": Entry(BASE, VIT, "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"),
    "swin_tiny": Entry(SWIN_TINY, SWIN, "timm/swin_tiny_patch4_window7_224.ms_in1k"),
    "swin_small": Entry(SWIN_SMALL, SWIN, "timm/swin_small_patch4_window7_224.ms_in1k"),
    "swin_base": Entry(SWIN_BASE, SWIN, "timm/swin_base_patch4_window7_224.ms_in1k"),
}
