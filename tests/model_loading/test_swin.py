from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models import images, randomize
from packqvit_delegate.errors import PackQViTError
from packqvit_delegate.models import SwinConfig, SwinTransformer, load
from packqvit_delegate.models import loading as models_loading
from packqvit_delegate.models.zoo import Entry

SMALL = SwinConfig(image_size=32, window=4, dim=12, heads=2, depths=(2, 2), num_classes=5)


def timm_model(config: SwinConfig) -> torch.nn.Module:
    import timm

    return randomize(
        timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=config.image_size,
            window_size=config.window,
            embed_dim=config.dim,
            depths=config.depths,
            num_heads=[config.heads << stage for stage in range(len(config.depths))],
            num_classes=config.num_classes,
        )
    )


@pytest.mark.parametrize(
    ("size", "window"),
    [(32, 4), (40, 4), (36, 7), (32, 3), (16, 8)],  # tiled, odd and padded, padded and shifted, one window
)
def test_the_same_function_as_timms(size: int, window: int) -> None:
    config = SwinConfig(image_size=size, window=window, dim=12, heads=2, depths=(2, 2), num_classes=5)
    reference, model = timm_model(config), SwinTransformer(config).eval()
    model.load_state_dict(
        {name: tensor for name, tensor in reference.state_dict().items() if not name.endswith("_index")}
    )
    with torch.no_grad():
        torch.testing.assert_close(model(images(2, size)), reference(images(2, size)), atol=1e-5, rtol=1e-5)


@pytest.fixture
def small_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = models_loading.ZOO["swin_tiny"]
    monkeypatch.setitem(models_loading.ZOO, "swin_tiny", Entry(SMALL, entry.preprocessing, entry.repository))


def microsoft_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {"layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16)}
    for name, tensor in tensors.items():
        name = name.replace("layers.1.downsample", "layers.0.downsample").replace("head.fc", "head")
        renamed[name] = tensor.contiguous()
    renamed["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return renamed


@pytest.mark.usefixtures("small_entry")
@pytest.mark.parametrize("rename", [dict, microsoft_names])
def test_weights_of_timm_and_of_microsoft(tmp_path: Path, rename: type) -> None:
    model = randomize(SwinTransformer(SMALL))
    save_file(rename(model.state_dict()), tmp_path / "swin.safetensors")
    loaded = load("swin_tiny", tmp_path / "swin.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded.module(images(1, 32)), model(images(1, 32)))


@pytest.mark.usefixtures("small_entry")
def test_window_and_classes_follow_the_weights(tmp_path: Path) -> None:
    config = SwinConfig(image_size=48, window=6, dim=12, heads=2, depths=(2, 2), num_classes=9)
    save_file(SwinTransformer(config).state_dict(), tmp_path / "swin.safetensors")
    loaded = load("swin_tiny", tmp_path / "swin.safetensors")
    assert loaded.module.config == config and loaded.preprocessing.size == 48


@pytest.mark.usefixtures("small_entry")
def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    tensors = SwinTransformer(SMALL).state_dict()
    tensors["layers.0.blocks.0.attn.relative_position_bias_table"] = torch.zeros(50, 2)
    save_file(tensors, tmp_path / "swin.safetensors")
    with pytest.raises(PackQViTError, match="has 50 rows, which no square window has"):
        load("swin_tiny", tmp_path / "swin.safetensors")
    with pytest.raises(PackQViTError, match="lacks"):
        load("vit_tiny", tmp_path / "swin.safetensors")


@pytest.mark.parametrize("field", ["window", "heads", "depths"])
def test_sizes_are_checked(field: str) -> None:
    with pytest.raises(PackQViTError, match=f"{field} is"):
        SwinConfig(**{field: () if field == "depths" else 0})
