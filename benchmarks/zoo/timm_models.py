"""timm's models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .entry import Entry, randomize

Size = tuple[int, int]


def plain() -> Iterator[Entry]:
    """Vision Transformers with one sequence of tokens."""
    tiny = "vit_tiny_patch16_224"
    for name in ("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"):
        yield _entry(name)
    for name in (tiny, "vit_small_patch16_224", "vit_base_patch16_224", "vit_base_patch32_224"):
        yield _entry(name)
    for name in ("vit_large_patch16_224", "vit_small_patch16_36x1_224", "vit_base_patch16_224_miil"):
        yield _entry(name, depth=2)
    yield _entry("vit_small_patch16_18x2_224", depth=2)
    for name, size in (("vit_medium_patch16_gap_240", 240), ("vit_medium_patch16_gap_256", 256)):
        yield _entry(name, size=(size, size), depth=2)
    yield _entry(tiny, "features", depth=2, num_classes=0, global_pool="")
    yield _entry(tiny, "no head", depth=2, num_classes=0)
    yield _entry(tiny, "q/k norms", depth=2, qk_norm=True)
    yield _entry(tiny, "no class token", depth=2, class_token=False, global_pool="avg")
    yield _entry(tiny, "4 registers", depth=2, reg_tokens=4)
    yield _entry(tiny, "drop path", depth=2, drop_path_rate=0.2)
    yield _entry(tiny, "no positions", depth=2, pos_embed="none")
    for size in (160, 384, 512, 528):
        yield _entry(tiny, f"{size} x {size}", size=(size, size), depth=2, img_size=size)
    yield _entry(tiny, "160 x 256", size=(160, 256), depth=2, img_size=(160, 256))
    yield _entry(tiny, "batch of 4", batch=4, depth=2)
    yield _entry(tiny, "dynamic size", depth=2, dynamic_img_size=True)
    yield _entry(tiny, "dynamic size, 256 x 192", size=(256, 192), depth=2, dynamic_img_size=True)
    yield _entry(tiny, "attention pooling", depth=2, global_pool="map", class_token=False)
    for pooling in ("avg", "max", "avgmax"):
        yield _entry(tiny, f"{pooling} pooling", depth=2, global_pool=pooling)
    for activation in ("relu", "silu"):
        yield _entry(tiny, activation, depth=2, act_layer=activation)


def towers() -> Iterator[Entry]:
    """Image towers and self-supervised backbones."""
    yield _entry("vit_base_patch16_siglip_224")
    yield _entry("vit_base_patch16_siglip_224", depth=2)
    yield _entry("vit_so150m_patch16_reg4_map_256", size=(256, 256), depth=2)
    yield _entry("vit_base_patch16_clip_224", depth=2)
    yield _entry("vit_base_patch16_clip_quickgelu_224", depth=2)
    yield _entry("vit_small_patch14_dinov2", size=(518, 518))
    yield _entry("vit_small_patch14_dinov2", "224 x 224", img_size=224)
    yield _entry("vit_small_patch14_reg4_dinov2", "224 x 224", depth=2, img_size=224)
    yield _entry("vit_giant_patch14_dinov2", "224 x 224", depth=1, img_size=224)
    for name in ("vit_small_patch16_dinov3", "vit_small_plus_patch16_dinov3"):
        yield _entry(name, "224 x 224", depth=2, img_size=224)


def newer_blocks() -> Iterator[Entry]:
    """Rotary and relative positions, gated MLPs."""
    for name in ("eva02_tiny_patch14_224", "beit_base_patch16_224", "beitv2_base_patch16_224"):
        yield _entry(name, depth=2)
    for name in ("vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224", "samvit_base_patch16_224"):
        yield _entry(name, depth=2)
    for name in ("vit_base_patch16_rope_224", "vit_base_patch16_rope_mixed_224", "vit_pe_core_base_patch16_224"):
        yield _entry(name, depth=2)
    yield _entry("vit_betwixt_patch16_rope_reg4_gap_256", size=(256, 256), depth=2)
    yield _entry("aimv2_large_patch14_224", depth=2)


def windows() -> Iterator[Entry]:
    """Swin Transformers."""
    yield _entry("swin_tiny_patch4_window7_224")
    yield _entry("swinv2_tiny_window8_256", size=(256, 256))


def hybrids() -> Iterator[Entry]:
    """With convolutions or another kind of attention: in part, or not at all, what the integer operators are for."""
    for name in ("vit_tiny_r_s16_p8_224", "vit_small_r26_s32_224", "cait_xxs24_224", "xcit_tiny_12_p16_224"):
        yield _entry(name, depth=2)
    yield _entry("tnt_s_patch16_224", depth=2)
    yield _entry("convit_tiny", depth=4, local_up_to_layer=2)
    for name in _HYBRIDS:
        yield _entry(name)
    for name, size in _HYBRIDS_OF_SIZE.items():
        yield _entry(name, size=(size, size))


_HYBRIDS = (
    "convit_tiny",
    "pit_ti_224",
    "levit_128s",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_m0",
    "efficientvit_l1",
    "maxvit_tiny_tf_224",
    "coatnet_0_rw_224",
    "twins_svt_small",
    "twins_pcpvt_small",
    "pvt_v2_b0",
    "visformer_tiny",
    "nest_tiny",
    "poolformer_s12",
    "mvitv2_tiny",
    "edgenext_xx_small",
    "sequencer2d_s",
    "repvit_m0_9",
    "mixer_s16_224",
    "focalnet_tiny_srf",
    "inception_next_tiny",
    "shvit_s1",
    "mobilenetv4_hybrid_medium",
)
_HYBRIDS_OF_SIZE = {
    "mobilevit_s": 256,
    "mobilevitv2_050": 256,
    "fastvit_t8": 256,
    "fastvit_sa12": 256,
    "fastvit_mci0": 256,
    "crossvit_tiny_240": 240,
}


def _entry(name: str, variant: str = "", size: Size = (224, 224), batch: int = 1, **options: Any) -> Entry:
    depth = options.get("depth")
    layers = [] if depth is None else [f"{depth} layer{'s' * (depth > 1)}"]
    title = ", ".join([name, *([variant] if variant else []), *layers])
    return Entry(title, _build(name, options), size, batch)


def _build(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return randomize(timm.create_model(name, pretrained=False, **options))

    return build
