from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from packqvit_delegate.data import ImageFolder, Preprocessing, read_class_names
from packqvit_delegate.errors import PackQViTError


def write_image(path: Path, shade: int = 128, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def names(folder: ImageFolder) -> list[str]:
    return [str(path.relative_to(folder.root)) for path in folder.files]


def test_labels_file_gives_files_in_its_order(tmp_path):
    for name in ("b.png", "a.png", "c.png"):
        write_image(tmp_path / "sub" / name)
    (tmp_path / "labels.csv").write_text("file,label\nsub/b.png,7\nsub/a.png,0\n")
    folder = ImageFolder.open(tmp_path)
    assert names(folder) == ["sub/b.png", "sub/a.png"]
    assert folder.labels == (7, 0)
    assert not folder.labels_from_folder_names


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name,class\na.png,1\n", "must begin with the line `file,label`"),
        ("", "must begin with the line `file,label`"),
        ("file,label\na.png,one\n", "line 2: expected a file name and a label"),
        ("file,label\na.png,-1\n", "line 2: expected a file name and a label"),
        ("file,label\na.png\n", "line 2: expected a file name and a label"),
        ("file,label\na.png,0\ngone.png,1\n", "line 3: there is no file"),
        ("file,label\n", "lists no images"),
    ],
)
def test_malformed_labels_file(tmp_path, content, reason):
    write_image(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(PackQViTError, match=reason):
        ImageFolder.open(tmp_path)


def test_labels_file_that_is_not_text(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(PackQViTError, match=r"labels\.csv is not a UTF-8 text"):
        ImageFolder.open(tmp_path)


def test_class_folders_are_labelled_by_sorted_name(tmp_path):
    write_image(tmp_path / "zebra" / "2.png")
    write_image(tmp_path / "zebra" / "1.png")
    write_image(tmp_path / "ant" / "deep" / "3.png")
    (tmp_path / "moth").mkdir()
    folder = ImageFolder.open(tmp_path)
    assert names(folder) == ["ant/deep/3.png", "zebra/1.png", "zebra/2.png"]
    assert folder.labels == (0, 2, 2)
    assert folder.labels_from_folder_names


def test_class_list_labels_synset_folders(tmp_path):
    (tmp_path / "words.txt").write_text("n00000001 tench, Tinca tinca\nn00000002 goldfish\nn00000003 shark\n")
    write_image(tmp_path / "images" / "n00000003" / "1.png")
    write_image(tmp_path / "images" / "goldfish" / "2.png")
    classes = read_class_names(tmp_path / "words.txt")
    folder = ImageFolder.open(tmp_path / "images", classes)
    assert folder.labels == (1, 2)
    assert not folder.labels_from_folder_names
    write_image(tmp_path / "images" / "n00000009" / "1.png")
    with pytest.raises(PackQViTError, match="n00000009 is none of the 3 classes"):
        ImageFolder.open(tmp_path / "images", classes)


def test_plain_folder_has_no_labels_and_counts_what_it_skips(tmp_path, caplog):
    write_image(tmp_path / "b.PNG")
    write_image(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "archive.zip").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    with caplog.at_level(logging.WARNING):
        folder = ImageFolder.open(tmp_path)
    assert names(folder) == ["a.jpg", "b.PNG"]
    assert folder.labels is None
    assert "skipped 2 files that are not images" in caplog.text
    assert next(folder.batches(2, Preprocessing(size=16))).labels is None


def test_no_images(tmp_path):
    (tmp_path / "empty_class").mkdir()
    with pytest.raises(PackQViTError, match="has no images"):
        ImageFolder.open(tmp_path)
    with pytest.raises(PackQViTError, match="is not a folder"):
        ImageFolder.open(tmp_path / "missing")
    with pytest.raises(PackQViTError, match="is not a folder"):
        ImageFolder.open(write_image(tmp_path / "file.png"))


def test_batches_follow_the_order_and_the_last_is_shorter(tmp_path):
    for shade in range(5):
        write_image(tmp_path / f"{shade}.png", shade * 50)
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"{i}.png,{i + 10}\n" for i in (4, 1, 3, 0, 2)))
    batches = list(ImageFolder.open(tmp_path).batches(2, Preprocessing(size=16)))
    assert [len(batch.files) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [14, 11, 13, 10, 12]
    assert [int(shade) for batch in batches for shade in batch.pixels[:, 0, 0, 0]] == [200, 50, 150, 0, 100]
    assert batches[0].pixels.dtype == torch.uint8 and batches[0].images.dtype == torch.float32
    with pytest.raises(PackQViTError, match="batch size 0"):
        next(ImageFolder.open(tmp_path).batches(0, Preprocessing()))


def test_images_are_read_only_when_asked_for(tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"this is no image")
    batches = ImageFolder.open(tmp_path).batches(1, Preprocessing(size=16))
    assert next(batches).pixels.shape == (1, 3, 16, 16)
    with pytest.raises(PackQViTError, match=r"cannot read the image .*b\.png.*take it out of the folder"):
        next(batches)


def test_truncated_image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for suffix in ("jpg", "png"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(PackQViTError, match=rf"cannot read the image .*a\.{suffix}"):
            next(ImageFolder(tmp_path, (path,), None).batches(1, Preprocessing()))


def test_elongated_image(tmp_path):
    path = write_image(tmp_path / "line.png", size=(5000, 1))
    with pytest.raises(PackQViTError, match=r"line\.png.*too elongated"):
        next(ImageFolder.open(tmp_path).batches(1, Preprocessing()))
    assert path.exists()


def test_sample_is_deterministic(tmp_path, caplog):
    folder = ImageFolder(tmp_path, tuple(Path(f"{i}.png") for i in range(100)), tuple(range(100)))
    first = folder.sample(10, seed=3)
    assert first == folder.sample(10, seed=3)
    assert first != folder.sample(10, seed=4)
    assert len(set(first.files)) == 10
    assert all(file.name == f"{label}.png" for file, label in zip(first.files, first.labels, strict=True))
    with caplog.at_level(logging.WARNING):
        assert sorted(folder.sample(101).labels) == list(range(100))
    assert "has 100 images, 101 were asked for" in caplog.text
    with pytest.raises(PackQViTError, match="at least 1"):
        folder.sample(0)
