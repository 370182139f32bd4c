"""Small pictures inside a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from ..data import Preprocessing
from ..data.preprocessing import open_image

SIDE = 128


def thumbnail(path: str | Path, preprocessing: Preprocessing) -> str:
    """What a model sees of a picture, as a `data:` URI of a JPEG of `SIDE` x `SIDE` pixels.

    Raises:
        PackQViTError: It cannot be read.
    """
    pixels = preprocessing.pixels(open_image(path))
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=75, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
