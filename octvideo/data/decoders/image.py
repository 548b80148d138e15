"""Read image files as videos of one frame."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from octvideo.data.decoders.reader import scaled_size

__all__ = ["ImageReader"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow starts external programs for some others


class ImageReader:
    """Decode an image at opening. Its content decides the format: some of ImageNet's .JPEG files are PNG.

    Pillow converts greyscale, palettes and CMYK to RGB. Of 16 bits per channel the upper 8 are kept, transparency is
    dropped, and the EXIF orientation is applied.
    """

    fps = 1.0

    def __init__(self, source: str | bytes, short_side: int | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF data; Pillow's limit on pixels is an error further up
            file = source if isinstance(source, str) else io.BytesIO(source)
            with Image.open(file, formats=_FORMATS) as image:
                self._frame = _upright_rgb(image, short_side)

    def __len__(self) -> int:
        return 1

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return np.stack([self._frame for _ in indices])

    def close(self) -> None:
        """Do nothing: the file is closed."""


def _upright_rgb(image: Image.Image, short_side: int | None) -> np.ndarray:
    image.load()  # here, so that damaged pixels are not mistaken for damaged EXIF data
    upright: Image.Image = image
    with contextlib.suppress(Exception):  # EXIF data can be damaged in many ways
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))  # Pillow would cut values at 255
    upright = upright.convert("RGB")
    if short_side is not None:
        height, width = scaled_size(upright.height, upright.width, short_side)
        upright = upright.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(upright)
