"""Image files, as videos of one frame."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from octvideo.data.decoders.reader import scaled_size

__all__ = ["ImageReader"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow knows others, and starts programs for some


class ImageReader:
    """An image, decoded when it is opened. What is inside decides: some of ImageNet's .JPEG files are PNG.

    Greyscale, palettes and CMYK become RGB as Pillow does it; of 16 bits a channel the upper 8 are kept, and
    transparency is dropped. It is turned upright where its EXIF data say so.
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
        """Nothing is open."""


def _upright_rgb(image: Image.Image, short_side: int | None) -> np.ndarray:
    image.load()  # here, so that what is wrong with the pixels is not taken for damaged EXIF data
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
