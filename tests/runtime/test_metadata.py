"""What a program says of itself comes back as it was given, and feeds the program without a further word."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import MICRO, plain_model
from packqvit_delegate import Metadata, PackQViTError, Program, export, runtime
from packqvit_delegate.data import Preprocessing, synthetic_images
from packqvit_delegate.metadata import NAMES
from packqvit_delegate.runtime.program_tables import constants
from packqvit_delegate.version import product_version

PREPROCESSING = Preprocessing(MICRO["image"], 0.75, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear", "squash")
CLASSES = tuple(f"class {i}, Größe" for i in range(MICRO["classes"]))
METADATA = Metadata("micro", PREPROCESSING, CLASSES, "classification")
IMAGES = PREPROCESSING.normalize(synthetic_images(2, MICRO["image"]))


def make(**options) -> Program:
    return export(plain_model(), (IMAGES[:1],), IMAGES, bits=8, **{"metadata": METADATA, **options})


@pytest.fixture(scope="module")
def program() -> bytes:
    return make().buffer


@pytest.fixture(scope="module")
def best_of_bytes() -> bytes:
    return make(byte_input="hwc", top_k=3).buffer


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def test_it_comes_back(program: bytes, best_of_bytes: bytes) -> None:
    expected = dataclasses.replace(
        METADATA, weight_bits=8, activation_bits=8, layout="chw", product_version=product_version()
    )
    assert runtime.load(program).info == expected
    assert runtime.load(best_of_bytes).info == dataclasses.replace(expected, layout="hwc", top_k=3)
    assert constants(best_of_bytes).keys() == NAMES


def test_the_runtime_gives_what_the_tables_say(program: bytes) -> None:
    """Any runtime reads it by executing the methods."""
    model = runtime.load(program)
    for name, values in constants(program).items():
        assert tuple(model._program.load_method(name).execute([])) == values, name


def test_pictures_of_every_kind(program: bytes, best_of_bytes: bytes, picture: Image.Image, tmp_path: Path) -> None:
    model = runtime.load(program)
    assert model.preprocessing == PREPROCESSING and model.classes == CLASSES
    picture.save(tmp_path / "a.png")
    expected = model.run(PREPROCESSING(picture)[None])[0][0]
    for given in (picture, np.asarray(picture), tmp_path / "a.png", str(tmp_path / "a.png")):
        guesses = model.predict(given, top=10)
        assert [guess.score for guess in guesses] == expected.sort(descending=True).values.tolist()
    assert sum(guess.probability or 0 for guess in guesses) == pytest.approx(1)
    assert guesses[0].name == CLASSES[int(expected.argmax())]
    ranked = runtime.load(best_of_bytes).predict(picture)
    assert [(guess.index, guess.score) for guess in ranked] == [(g.index, g.score) for g in guesses[:3]]
    assert ranked[0].probability is None


def test_a_picture_fills_a_batch() -> None:
    images = IMAGES.repeat(2, 1, 1, 1)
    model = runtime.load(export(plain_model(), (images[:2],), images, bits=8, metadata=METADATA).buffer)
    grey = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48).astype(np.uint8)
    assert model.prepare(grey).shape == (2, 3, MICRO["image"], MICRO["image"])
    assert len(model.predict(grey)) == 5


def test_without_metadata(picture: Image.Image) -> None:
    model = runtime.load(make(metadata=None).buffer)
    assert model.preprocessing is None and model.classes == () and model.info == Metadata()
    with pytest.raises(PackQViTError, match="does not say how pictures become its input: export it with metadata="):
        model.predict(picture)


def test_features_have_no_classes(program: bytes, picture: Image.Image) -> None:
    model = runtime.load(make(metadata=Metadata(preprocessing=PREPROCESSING, task="features")).buffer)
    with pytest.raises(PackQViTError, match="gives features, not classes"):
        model.predict(picture)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"metadata": dataclasses.replace(METADATA, preprocessing=Preprocessing(64))}, r"images of \[B, 3, 64, 64\]"),
        ({"input_normalization": ((0.5,) * 3, (0.5,) * 3)}, "normalises with mean .* give one of them"),
        (
            {"metadata": dataclasses.replace(METADATA, class_names=("a", "b"))},
            "2 class names, but the model 10 classes",
        ),
        ({"metadata": {"model": "micro"}}, "metadata is a dict"),
    ],
)
def test_contradictions(options: dict, reason: str) -> None:
    with pytest.raises(PackQViTError, match=reason):
        make(**options)


def test_a_name_on_two_lines() -> None:
    with pytest.raises(PackQViTError, match="has a line break"):
        Metadata(class_names=("a", "b\nc"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metadata_version": (2,)}, "was made by packqvit-delegate 0.* install that version, or a later one"),
        ({"metadata_version": ("1",)}, r"its method metadata_version gives \('1',\), but 1 int were expected"),
        ({"image_mean": (0.5, 0.5)}, r"its method image_mean gives \(0.5, 0.5\), but 3 float were expected"),
        ({"image_size": (32, 48)}, "rgb images of 32 x 48 pixels"),
        ({"image_crop": ("round",)}, "does not make sense: crop is 'round'"),
        ({"top_k": (True,)}, "top_k gives"),
    ],
)
def test_what_makes_no_sense(program: bytes, changes: dict, reason: str) -> None:
    with pytest.raises(PackQViTError, match=reason):
        Metadata.of_constants({**constants(program), **changes})


def test_threads_tiers_and_times(program: bytes, picture: Image.Image) -> None:
    model = runtime.load(program, threads=1, tier="reference", profile=True)
    with pytest.raises(PackQViTError, match="the program has not run, or"):
        model.operator_times()
    expected = runtime.load(program).run(model.prepare(picture))[0]
    for _ in range(3):
        assert torch.equal(model.run(model.prepare(picture))[0], expected)
    times = model.operator_times()
    assert sum(time.name.startswith("packqvit_softmax") for time in times) == 2
    assert {time.runs for time in times} == {3} and min(time.median for time in times) > 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tier": "avx1024"}, "this CPU has no tier 'avx1024'; it has .*reference"),
        ({"threads": 0}, "threads is 0, but must be at least 1"),
        ({"method": "backward"}, r"no method 'backward', only \['forward'\]"),
    ],
)
def test_loading_refuses(program: bytes, options: dict, reason: str) -> None:
    with pytest.raises(PackQViTError, match=reason):
        runtime.load(program, **options)


def test_times_need_a_profile(program: bytes) -> None:
    with pytest.raises(PackQViTError, match="without profile=True"):
        runtime.load(program).operator_times()
