from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from packqvit_delegate.data import ImageFolder, Preprocessing, open_image, synthetic_images, to_image
from packqvit_delegate.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD
from packqvit_delegate.errors import PackQViTError


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def reference(image: Image.Image, size: int = 224) -> torch.Tensor:
    """What the published float accuracies were measured with, written out for crop fraction 0.9."""
    width, height = image.size
    ratio = int(size / 0.9) / min(width, height)
    image = image.resize((max(size, round(width * ratio)), max(size, round(height * ratio))), Image.Resampling.BICUBIC)
    left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
    image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([8, 31, 224]))
def test_pixels_match_the_reference_at_any_shape(width, height, size):
    image = noise(width, height)
    pixels = Preprocessing(size=size).pixels(image)
    assert pixels.dtype == torch.uint8 and pixels.is_contiguous()
    assert torch.equal(pixels, reference(image, size))


def test_whole_image_without_a_crop():
    image = noise(20, 20)
    assert torch.equal(Preprocessing(20, 1.0).pixels(image), torch.from_numpy(np.array(image)).permute(2, 0, 1))


@pytest.mark.parametrize(("mean", "std"), [(HALF, HALF), (IMAGENET_MEAN, IMAGENET_STD)])
def test_normalised_input_is_an_exact_function_of_the_byte(mean, std):
    preprocessing = Preprocessing(mean=mean, std=std)
    pixels = torch.arange(256, dtype=torch.uint8).expand(3, 1, 256)
    images = preprocessing.normalize(pixels)
    back = (images.double() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]) * 255
    assert torch.equal(back.round().to(torch.uint8), pixels)
    assert images.dtype == torch.float32
    if mean == HALF:
        assert images.min() == -1 and images.max() == 1


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "RGBA", "LA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "image.tiff"
    image = Image.new("I;16", (30, 30), 3000) if mode == "I;16" else noise(30, 30, mode)
    image.save(path)
    assert open_image(path).mode == "RGB"
    assert Preprocessing(size=8).pixels(image).shape == (3, 8, 8)


def test_sixteen_bits_of_grey_are_scaled(tmp_path):
    Image.fromarray(np.full((30, 30), 0x80FF, dtype=np.uint16)).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((3, 3)) == (0x80, 0x80, 0x80)


def test_pictures_held_sideways_are_upright(tmp_path):
    image = noise(30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.rot90(np.asarray(image), -1))


def test_the_whole_picture_is_squashed():
    image = noise(40, 20)
    pixels = Preprocessing(10, 1.0, interpolation="bilinear", crop="squash").pixels(image)
    expected = np.asarray(image.resize((10, 10), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)])
def test_arrays_that_are_no_pictures(array):
    with pytest.raises(PackQViTError, match=r"but must be uint8 \[H, W, 3\]"):
        to_image(array)


@pytest.mark.parametrize(
    "options",
    [
        {"interpolation": "cubic"},
        {"crop": "corner"},
        {"size": 0},
        {"crop_fraction": 0.0},
        {"crop_fraction": 1.5},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
    ],
)
def test_impossible_options(options):
    with pytest.raises(PackQViTError):
        Preprocessing(**options)


def test_synthetic_images_are_reproducible():
    images = synthetic_images(3, 32, seed=1)
    assert images.shape == (3, 3, 32, 32) and images.dtype == torch.uint8
    assert torch.equal(images, synthetic_images(3, 32, seed=1))
    assert not torch.equal(images, synthetic_images(3, 32, seed=2))
    assert images.float().std() > 20


@pytest.mark.data
def test_real_pictures_match_the_reference(data_root):
    folder = ImageFolder.open(data_root / "ilsvrc_val_500")
    assert len(folder) == 500 and folder.labels is not None
    batch = next(folder.batches(16, Preprocessing(mean=HALF, std=HALF)))
    expected = torch.stack([reference(Image.open(file).convert("RGB")) for file in batch.files])
    assert torch.equal(batch.pixels, expected)
    assert torch.equal(batch.images, (expected / 255 - 0.5) / 0.5)
