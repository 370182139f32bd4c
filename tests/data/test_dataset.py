"""A folder as a data set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from packqvit_delegate import PackQViTError
from packqvit_delegate.data import FolderDataset, ImageFolder, Preprocessing

PREPROCESSING = Preprocessing(size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        Image.effect_noise((20, 24), 40 * (i + 1)).convert("RGB").save(tmp_path / f"{i}.png")
    return tmp_path


def test_items_are_what_the_folder_gives_in_batches(folder: Path) -> None:
    (folder / "labels.csv").write_text("file,label\n0.png,4\n1.png,2\n2.png,9\n")
    opened = ImageFolder.open(folder)
    expected = next(iter(opened.batches(3, PREPROCESSING)))
    images, labels = next(iter(DataLoader(FolderDataset(opened, PREPROCESSING), batch_size=3)))
    assert torch.equal(images, expected.images) and labels.tolist() == [4, 2, 9]


def test_images_without_labels_come_alone(folder: Path) -> None:
    data = FolderDataset(ImageFolder.open(folder), PREPROCESSING)
    assert len(data) == 3 and data[1].shape == (3, 16, 16)


def test_a_damaged_image_is_named(folder: Path) -> None:
    (folder / "1.png").write_bytes(b"not a picture")
    with pytest.raises(PackQViTError, match="1.png"):
        FolderDataset(ImageFolder.open(folder), PREPROCESSING)[1]
