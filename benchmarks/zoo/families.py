"""All models of the zoo, by family."""

from __future__ import annotations

from . import hugging_face_models, timm_models, written_models
from .entry import Entry

FAMILIES: dict[str, list[Entry]] = {
    "Vision Transformers": [*timm_models.plain(), *written_models.plain()],
    "Towers and backbones": [*timm_models.towers(), *hugging_face_models.images()],
    "Rotary and relative positions, gated MLPs": [*timm_models.newer_blocks()],
    "Swin Transformers": [*timm_models.windows(), *written_models.windows()],
    "Text, video and embeddings": [*hugging_face_models.sequences(), *written_models.sequences()],
    "Hybrids and other kinds of mixing": [
        *timm_models.hybrids(),
        *hugging_face_models.hybrids(),
        *written_models.hybrids(),
    ],
}
"""By heading."""

ENTRIES = {entry.name: entry for entries in FAMILIES.values() for entry in entries}
"""By name."""
