"""Copy videos as small clips."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from octvideo.data.decoders.decode import Video, open_video
from octvideo.data.media import is_image
from octvideo.files import write_bytes
from octvideo.inference.overlay import VideoWriter

__all__ = ["copy_small"]

_HEIGHT = 240  # pixels
_SECONDS = 4.0
_MAX_FPS = 30


def copy_small(source: str, target: Path) -> Path:
    """Write the middle seconds of a video as a small H.264 .mp4, or an image as a small .jpg.

    Args:
        source: path of the video or image.
        target: without a suffix.

    Returns:
        The file that was written.

    Raises:
        DecodeError: it is missing or cannot be decoded.
        UserError: the copy cannot be written.
    """
    with open_video(source) as video:
        if is_image(source):
            content = io.BytesIO()
            Image.fromarray(_small(video.frames([0])[0])).save(content, "jpeg", quality=85)
            write_bytes(target.with_suffix(".jpg"), content.getvalue())
            return target.with_suffix(".jpg")
        stride = max(1, round(video.fps / _MAX_FPS))
        fps = Fraction(video.fps).limit_denominator(1001) / stride
        with VideoWriter(target.with_suffix(".mp4"), fps) as writer:
            for number, frame in enumerate(_middle(video, stride)):
                writer.write(frame, number / float(fps))
        return writer.path


def _middle(video: Video, stride: int) -> np.ndarray:
    """Return every ``stride``-th frame of the seconds in the middle, small: ``(n, H, W, 3)``."""
    count = min(len(video), max(1, round(_SECONDS * video.fps)))
    start = (len(video) - count) // 2
    numbers = np.arange(start, start + count, stride)
    return video.frames(numbers, lambda frames: np.stack([_small(frame) for frame in frames]))


def _small(frame: np.ndarray) -> np.ndarray:
    """Return a frame of at most ``_HEIGHT`` pixels height."""
    height, width = frame.shape[:2]
    if height <= _HEIGHT:
        return frame
    size = (max(1, round(width * _HEIGHT / height)), _HEIGHT)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
