"""A folder of images as a data set for PyTorch's DataLoader."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from packqvit_delegate.arguments import checked
from packqvit_delegate.data.folder import ImageFolder
from packqvit_delegate.data.preprocessing import Preprocessing, open_image


class FolderDataset(Dataset[torch.Tensor | tuple[torch.Tensor, int]]):
    """Images, read when they are asked for: float32 [3, size, size], with a label where the folder has labels."""

    @checked
    def __init__(self, folder: ImageFolder, preprocessing: Preprocessing) -> None:
        """Takes a folder.

        Args:
            folder: The images.
            preprocessing: Crops and normalises them.
        """
        self._folder, self._preprocessing = folder, preprocessing

    def __len__(self) -> int:
        """Number of images."""
        return len(self._folder)

    def __getitem__(self, index: int) -> torch.Tensor | tuple[torch.Tensor, int]:
        """An image, or an image and its label.

        Raises:
            PackQViTError: The image cannot be read; the message names the file.
        """
        image = self._preprocessing(open_image(self._folder.files[index]))
        return image if self._folder.labels is None else (image, self._folder.labels[index])
