"""Image folders, preprocessing and class names: what calibration and evaluation read."""

from packqvit_delegate.data.dataset import FolderDataset
from packqvit_delegate.data.folder import Batch, ImageFolder
from packqvit_delegate.data.labels import ClassName, read_class_names
from packqvit_delegate.data.preprocessing import Preprocessing, open_image, synthetic_images, to_image

__all__ = [
    "Batch",
    "ClassName",
    "FolderDataset",
    "ImageFolder",
    "Preprocessing",
    "open_image",
    "read_class_names",
    "synthetic_images",
    "to_image",
]
