"""A place where the commands of the pages find what they name: micro models and small pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from models import randomize
from packqvit_delegate.models import ZOO, SwinConfig, SwinTransformer, VisionTransformer, ViTConfig, loading

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ViTConfig(image_size=224, patch_size=32, num_classes=10, dim=48, depth=1)
SWIN = SwinConfig(image_size=64, window=4, num_classes=10, dim=16, heads=2, depths=(2, 2))
NAMES = ("n01440764", "n02102040")


@pytest.fixture(scope="module")  # a package's would last to the end of the session where folders are no packages
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of a repository with everything beside it that the pages name; it is the working directory."""
    root = tmp_path_factory.mktemp("place") / "repository"
    root.mkdir()
    (root / "examples").symlink_to(ROOT / "examples")
    data = root.parent / "shared" / "data"
    weights = randomize(VisionTransformer(CONFIG)).state_dict()
    for folder in ("photos/train", "photos/val", "imagenet/val"):
        _draw_classes(root / folder)
    for folder in ("imagenette/train", "imagenette/val", "ilsvrc_val_500"):
        _draw(data / folder, 12, labels=range(10))
    _draw(data / "imagenet_one_per_class_1000", 24)
    for path in ("deit_tiny.safetensors", "vit_tiny.safetensors", data / "vit_tiny_patch16_224.in1k.safetensors"):
        save_file(weights, root / path)
    swin = randomize(SwinTransformer(SWIN)).state_dict()
    save_file(swin, data / "swin_tiny_patch4_window7_224.distilled.safetensors")
    (root / "class_names.txt").write_text("".join(f"class {i}\n" for i in range(CONFIG.num_classes)))
    (root / "image.bin").write_bytes(torch.zeros(1, 3, 224, 224).numpy().tobytes())
    for suffix in ("ppm", "jpg"):
        _picture(0).save(root / f"photo.{suffix}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("deit_tiny", "vit_tiny"):
            patch.setitem(ZOO, name, replace(ZOO[name], config=CONFIG))
        patch.setitem(ZOO, "swin_tiny", replace(ZOO["swin_tiny"], config=SWIN))
        patch.setattr(loading, "_download", lambda repository, file: str(root / "vit_tiny.safetensors"))  # the hub
        yield root


def _picture(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")[0]
    return Image.fromarray((255 * pixels).byte().permute(1, 2, 0).numpy())


def _draw(folder: Path, count: int, labels: range | None = None) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        _picture(i).save(folder / f"{i}.png")
    if labels is not None:
        lines = [f"{i}.png,{labels[i % len(labels)]}\n" for i in range(count)]
        (folder / "labels.csv").write_text("file,label\n" + "".join(lines))


def _draw_classes(folder: Path) -> None:
    for name in NAMES:
        _draw(folder / name, 4)
