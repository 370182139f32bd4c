"""Loading Vision Transformers by name, with weights from a file or from the hub."""

from packqvit_delegate.models.features import without_classifier
from packqvit_delegate.models.loading import RANDOM, LoadedModel, file_stem, load
from packqvit_delegate.models.swin import SwinConfig, SwinTransformer
from packqvit_delegate.models.vit import VisionTransformer, ViTConfig
from packqvit_delegate.models.zoo import ZOO

__all__ = [
    "RANDOM",
    "ZOO",
    "LoadedModel",
    "SwinConfig",
    "SwinTransformer",
    "ViTConfig",
    "VisionTransformer",
    "file_stem",
    "load",
    "without_classifier",
]
