"""A folder of images, read lazily and in a fixed order."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from packqvit_delegate.arguments import checked
from packqvit_delegate.data.labels import ClassName
from packqvit_delegate.data.preprocessing import Preprocessing, open_image
from packqvit_delegate.errors import PackQViTError

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.csv"
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


class Batch(NamedTuple):
    """Some images of a folder, in its order."""

    files: Sequence[Path]
    pixels: Tensor
    """uint8 [n, 3, size, size]."""
    images: Tensor
    """float32 [n, 3, size, size], normalised."""
    labels: Tensor | None
    """int64 [n], or None when the folder has no labels."""


@dataclass(frozen=True)
class ImageFolder:
    """Image files and their labels; no image is opened before it is asked for.

    Three layouts are understood, in this order:

    * a `labels.csv` with the columns `file` (relative to the folder) and `label` (an integer from 0);
    * one sub-folder a class; labels follow the sorted names, or the class list where one is given;
    * images directly in the folder, without labels: enough for calibration.

    Files that are not images are skipped with a warning.
    """

    root: Path
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    labels_from_folder_names: bool = False

    @classmethod
    @checked
    def open(cls, root: str | Path, class_names: Sequence[ClassName] | None = None) -> ImageFolder:
        """Lists a folder.

        Args:
            root: the folder.
            class_names: with sub-folders named after synsets (`n01440764`) or class names, gives their labels.

        Raises:
            PackQViTError: not a folder, no images, a malformed labels.csv, or a sub-folder that is no known class.
        """
        root = Path(root)
        if not root.is_dir():
            raise PackQViTError(f"{root} is not a folder: give a folder of images")
        if (root / LABELS_FILE).is_file():
            return cls._from_labels_file(root)
        folder = cls._from_class_folders(root, class_names)
        if not folder.files:
            folder = cls(root, tuple(_image_files(root.iterdir(), root)), None)
        if not folder.files:
            suffixes = " ".join(sorted(IMAGE_SUFFIXES))
            raise PackQViTError(f"{root} has no images ({suffixes}), neither directly nor in one sub-folder a class")
        return folder

    @classmethod
    def _from_labels_file(cls, root: Path) -> ImageFolder:
        files: list[Path] = []
        labels: list[int] = []
        path = root / LABELS_FILE
        try:
            reader = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines())
        except UnicodeDecodeError as error:
            raise PackQViTError(f"{path} is not a UTF-8 text: {error}") from error
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise PackQViTError(f"{path} must begin with the line `file,label`")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not row["file"] or not (row["label"] or "").strip().isdecimal():
                raise PackQViTError(f"{where}: expected a file name and a label of 0 or more, found {row}")
            if not (root / row["file"]).is_file():
                raise PackQViTError(f"{where}: there is no file {root / row['file']}")
            files.append(root / row["file"])
            labels.append(int(row["label"]))
        if not files:
            raise PackQViTError(f"{path} lists no images")
        return cls(root, tuple(files), tuple(labels))

    @classmethod
    def _from_class_folders(cls, root: Path, class_names: Sequence[ClassName] | None) -> ImageFolder:
        known = {name: label for label, entry in enumerate(class_names or ()) for name in entry if name}
        files: list[Path] = []
        labels: list[int] = []
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        for index, folder in enumerate(folders):
            images = _image_files(folder.rglob("*"), folder)
            if images and class_names is not None and folder.name not in known:
                raise PackQViTError(f"the folder {folder} is none of the {len(class_names)} classes given")
            files += images
            labels += [known.get(folder.name, index)] * len(images)
        return cls(root, tuple(files), tuple(labels), labels_from_folder_names=class_names is None)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    @checked
    def check_labels(self, classes: int) -> None:
        """Refuses labels that a model cannot answer with.

        Args:
            classes: Of the model; its labels are 0 to `classes` - 1.

        Raises:
            PackQViTError: An image has another label; the message names both.
        """
        for file, label in zip(self.files, self.labels or (), strict=False):
            if not 0 <= label < classes:
                raise PackQViTError(
                    f"{self.root} has the label {label}, the model has {classes} classes, counted from 0; it is the "
                    f"label of {file}"
                )

    @checked
    def take(self, indices: Sequence[int]) -> ImageFolder:
        """The images at these positions, in this order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        return replace(self, files=tuple(self.files[i] for i in indices), labels=labels)

    @checked
    def sample(self, count: int, seed: int = 0) -> ImageFolder:
        """`count` images drawn without repetition, the same ones in the same order for the same seed.

        All images, shuffled, when there are fewer than `count`.

        Raises:
            PackQViTError: `count` is below 1.
        """
        if count < 1:
            raise PackQViTError(f"asked for {count} images of {self.root}: ask for at least 1")
        if count > len(self):
            logger.warning("%s has %d images, %d were asked for: all are used", self.root, len(self), count)
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.take(order[:count].tolist())

    @checked
    def batches(self, batch_size: int, preprocessing: Preprocessing) -> Iterator[Batch]:
        """Reads and preprocesses `batch_size` images at a time (the last batch may be smaller).

        Raises:
            PackQViTError: an image cannot be read; the message names the file.
        """
        if batch_size < 1:
            raise PackQViTError(f"batch size {batch_size} must be at least 1")
        for start in range(0, len(self), batch_size):
            files = self.files[start : start + batch_size]
            pixels = torch.stack([preprocessing.pixels(open_image(file)) for file in files])
            labels = None if self.labels is None else torch.tensor(self.labels[start : start + batch_size])
            yield Batch(files, pixels, preprocessing.normalize(pixels), labels)


def _image_files(candidates: Iterable[Path], folder: Path) -> list[Path]:
    """Image files among the candidates, sorted; the others are counted in one warning."""
    files = sorted(path for path in candidates if path.is_file() and not path.name.startswith("."))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if len(images) < len(files):
        other = next(path.name for path in files if path.suffix.lower() not in IMAGE_SUFFIXES)
        logger.warning("%s: skipped %d files that are not images (%s ...)", folder, len(files) - len(images), other)
    return images
