"""Read images as videos: one frame, an animation, or a folder of numbered images."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageOps

from octvideo.data.decoders.reader import scaled_size
from octvideo.data.media import frames_in

__all__ = ["FolderReader", "ImageReader"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")  # Pillow starts external programs for some others


_ANIMATIONS = ("PNG", "WEBP", "GIF")  # the pages of a TIFF and the second picture of a camera's JPEG are no frames
_DELAY = 100  # milliseconds a frame where an animation states none, as browsers have it


class ImageReader:
    """Decode an image at opening; of an animation the first frame. Its content decides the format: some of ImageNet's
    .JPEG files are PNG.

    Pillow converts greyscale, palettes and CMYK to RGB. Of 16 bits per channel the upper 8 are kept, transparency is
    dropped, and the EXIF orientation is applied.
    """

    times: np.ndarray | None = None

    def __init__(self, source: str | bytes, short_side: int | None = None) -> None:
        self._source, self._short_side = source, short_side
        with self._open() as image:
            self._count = getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1
            self._first = _upright_rgb(image, short_side)
            self.fps = 1000 / (image.info.get("duration") or _DELAY) if self._count > 1 else 1.0

    @contextlib.contextmanager
    def _open(self) -> Iterator[Image.Image]:
        file = self._source if isinstance(self._source, str) else io.BytesIO(self._source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF data; Pillow's limit on pixels is an error further up
            with Image.open(file, formats=_FORMATS) as image:
                yield image

    def __len__(self) -> int:
        return self._count

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        if self._count == 1:
            yield from (self._first for _ in indices)
            return
        with self._open() as image:
            for index in indices:
                image.seek(index)
                yield _upright_rgb(image, self._short_side)

    def close(self) -> None:
        """Do nothing: the file is closed."""


class FolderReader:
    """Read the images of a folder as the frames of a video, see ``frames_in``. All get the size of the first one."""

    times: np.ndarray | None = None

    def __init__(self, source: str, short_side: int | None = None, *, fps: float) -> None:
        self._files = [os.path.join(source, name) for name in frames_in(source)]
        if not self._files:
            raise ValueError("a folder without numbered images (img_00001.jpg)")
        self.fps, self._short_side = fps, short_side
        self._shape = self._frame(0).shape

    def _frame(self, index: int) -> np.ndarray:
        try:
            return next(ImageReader(self._files[index], self._short_side).frames([0]))
        except Exception as error:  # Pillow raises many kinds
            raise ValueError(f"{os.path.basename(self._files[index])}: {error}") from None

    def __len__(self) -> int:
        return len(self._files)

    def frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        height, width, _ = self._shape
        for frame in map(self._frame, indices):
            if frame.shape == self._shape:
                yield frame
            else:
                yield np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))

    def close(self) -> None:
        """Do nothing: no file is open."""


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
