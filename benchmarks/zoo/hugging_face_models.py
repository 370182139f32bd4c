"""Hugging Face's models, small and two layers deep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .entry import Entry, noise, randomize, tokens

SMALL: dict[str, Any] = dict(hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768)
DINO: dict[str, Any] = dict(
    hidden_size=192, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=4, image_size=224, patch_size=14
)
TEXT: dict[str, Any] = dict(vocab_size=1000, max_position_embeddings=32, **SMALL)


class Output(nn.Module):
    """A model of which some outputs are taken, by name."""

    def __init__(self, model: nn.Module, keys: tuple[str, ...], argument: str) -> None:
        super().__init__()
        self.model, self.keys, self.argument = model, keys, argument

    def forward(self, x: Tensor) -> Any:
        """[B, ...] -> one output, or several."""
        outputs = self.model(**{self.argument: x})
        chosen = tuple(getattr(outputs, key) for key in self.keys)
        return chosen if len(chosen) > 1 else chosen[0]


def images() -> Iterator[Entry]:
    """Models of pictures."""
    yield _entry("ViTForImageClassification", "ViTConfig", "logits", **SMALL)
    yield _entry("ViTForImageClassification", "ViTConfig", "logits", variant="eager", attention="eager", **SMALL)
    yield _entry(
        "ViTForImageClassification", "ViTConfig", "logits", variant="12 layers", **{**SMALL, "num_hidden_layers": 12}
    )
    yield _entry("ViTModel", "ViTConfig", "last_hidden_state", **SMALL)
    yield _entry("ViTModel", "ViTConfig", "last_hidden_state", "pooler_output", **SMALL)
    for name in ("DeiTForImageClassification", "DeiTForImageClassificationWithTeacher"):
        yield _entry(name, "DeiTConfig", "logits", **SMALL)
    yield _entry("Dinov2Model", "Dinov2Config", "last_hidden_state", **DINO)
    yield _entry("Dinov2Model", "Dinov2Config", "pooler_output", **DINO)
    yield _entry("Dinov2Model", "Dinov2Config", "last_hidden_state", "pooler_output", **DINO)
    yield _entry("Dinov2Model", "Dinov2Config", "last_hidden_state", variant="SwiGLU", use_swiglu_ffn=True, **DINO)
    yield _entry(
        "Dinov2Model", "Dinov2Config", "last_hidden_state", variant="of 518, at 224", **{**DINO, "image_size": 518}
    )
    yield _entry("Dinov2ForImageClassification", "Dinov2Config", "logits", num_labels=100, **DINO)
    yield _entry("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", "last_hidden_state", **DINO)
    yield _entry("DINOv3ViTModel", "DINOv3ViTConfig", "last_hidden_state", image_size=224, **SMALL)
    for output in ("pooler_output", "last_hidden_state"):
        yield _entry("SiglipVisionModel", "SiglipVisionConfig", output, image_size=224, **SMALL)
    yield _entry("CLIPVisionModelWithProjection", "CLIPVisionConfig", "image_embeds", **SMALL)
    positions = {"relative": "use_relative_position_bias", "absolute": "use_absolute_position_embeddings"}
    for variant, option in positions.items():
        beit: dict[str, Any] = {**SMALL, option: True}
        yield _entry("BeitForImageClassification", "BeitConfig", "logits", variant=variant, **beit)
    swin: dict[str, Any] = dict(depths=[2, 2], num_heads=[3, 6], embed_dim=96)
    yield _entry("SwinForImageClassification", "SwinConfig", "logits", **swin)
    yield _entry("ViTMAEModel", "ViTMAEConfig", "last_hidden_state", variant="nothing masked", mask_ratio=0.0, **SMALL)
    yield Entry("hf ViTMAEModel, encoder alone", _mae_encoder)


def hybrids() -> Iterator[Entry]:
    """With convolutions."""
    yield _entry("MobileViTForImageClassification", "MobileViTConfig", "logits", attention="eager", size=(256, 256))
    yield _entry("SegformerForSemanticSegmentation", "SegformerConfig", "logits", depths=[1, 1, 1, 1])
    yield Entry("hf DepthAnythingForDepthEstimation", _depth_anything)


def sequences() -> Iterator[Entry]:
    """Text and video."""
    yield _text("CLIPTextModel", "CLIPTextConfig", "last_hidden_state", eos_token_id=2)
    yield _text("SiglipTextModel", "SiglipTextConfig", "pooler_output", projection_size=192)
    yield _text("BertModel", "BertConfig", "last_hidden_state")
    build = _build("BertModel", "BertConfig", ("last_hidden_state",), "inputs_embeds", "sdpa", TEXT)
    yield Entry("hf BertModel, of embeddings", build, inputs=noise(32, 192))
    video: dict[str, Any] = dict(image_size=64, num_frames=4, num_labels=10, **SMALL)
    build = _build("VideoMAEForVideoClassification", "VideoMAEConfig", ("logits",), "pixel_values", "sdpa", video)
    yield Entry("hf VideoMAEForVideoClassification", build, inputs=noise(4, 3, 64, 64))


def _entry(
    name: str,
    config: str,
    *outputs: str,
    variant: str = "",
    attention: str = "sdpa",
    size: tuple[int, int] = (224, 224),
    **options: Any,
) -> Entry:
    shown = outputs if outputs != ("logits",) else ()
    title = ", ".join([f"hf {name}", *([variant] if variant else []), *shown])
    return Entry(title, _build(name, config, outputs, "pixel_values", attention, options), size)


def _text(name: str, config: str, output: str, **options: Any) -> Entry:
    build = _build(name, config, (output,), "input_ids", "sdpa", {**TEXT, **options})
    return Entry(f"hf {name}", build, inputs=tokens(32, TEXT["vocab_size"]))


def _build(
    name: str, config: str, outputs: tuple[str, ...], argument: str, attention: str, options: dict[str, Any]
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        settings = getattr(transformers, config)(**options)
        settings._attn_implementation = attention
        return Output(randomize(getattr(transformers, name)(settings)), outputs, argument).eval()

    return build


class MaskedAutoencoderEncoder(nn.Module):
    """The encoder of a masked autoencoder without its shuffling: what people keep of it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.embeddings, self.layers, self.norm = model.embeddings, model.layers, model.layernorm

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, N, D]."""
        embeddings = self.embeddings
        hidden = embeddings.patch_embeddings(x) + embeddings.position_embeddings[:, 1:]
        first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        hidden = torch.cat([first.expand(len(x), -1, -1), hidden], 1)
        for layer in self.layers:
            hidden = layer(hidden)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return self.norm(hidden)


def _mae_encoder() -> nn.Module:
    import transformers

    return MaskedAutoencoderEncoder(randomize(transformers.ViTMAEModel(transformers.ViTMAEConfig(**SMALL)))).eval()


def _depth_anything() -> nn.Module:
    import transformers

    stages = dict(out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True)
    backbone = transformers.Dinov2Config(**{**DINO, "num_hidden_layers": 4}, **stages)
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=192,
        patch_size=14,
        neck_hidden_sizes=[24, 48, 96, 192],
        fusion_hidden_size=32,
        head_hidden_size=16,
    )
    model = randomize(transformers.DepthAnythingForDepthEstimation(config))
    return Output(model, ("predicted_depth",), "pixel_values").eval()
