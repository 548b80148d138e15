"""Draw the curves of a run, and copy videos as small clips."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from octvideo.analysis.report_results import Curves
from octvideo.data.decoders.decode import Video, open_video
from octvideo.data.media import is_image
from octvideo.files import write_bytes
from octvideo.inference.overlay import VideoWriter

__all__ = ["copy_small", "draw_curves"]

_HEIGHT = 240  # pixels
_SECONDS = 4.0
_MAX_FPS = 30
_CHUNK = 16  # frames held at full size
# Readable on a light page and on a dark one.
_GREY, _LOSS, _RATE, _VAL = "#808690", "#e0803a", "#8a74d8", "#2f8fd0"


def draw_curves(curves: Curves) -> bytes:
    """Return an SVG: loss, learning rate and top-1 against steps. Its background is transparent."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {
        **{f"{part}.color": _GREY for part in ("text", "xtick", "ytick", "grid")},
        **{"axes.labelcolor": _GREY, "axes.edgecolor": _GREY, "grid.alpha": 0.25, "font.size": 9},
        **{"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "octvideo"},
    }
    # The default style: a user's own may need LaTeX.
    with plt.style.context(["default", style]):
        figure, panels = plt.subplots(3, figsize=(5.2, 5.2), sharex=True, height_ratios=(3, 2, 3))
        try:
            figure.subplots_adjust(left=0.14, right=0.97, top=0.98, bottom=0.09, hspace=0.28)
            loss, rate, top1 = panels
            loss.plot(*_columns(curves.loss), color=_LOSS, linewidth=1.4)
            loss.set(ylabel="training loss")
            rate.plot(*_columns(curves.rate), color=_RATE, linewidth=1.4)
            rate.set(ylabel="learning rate", ylim=(0, None))
            top1.plot(*_columns(curves.train_top1), color=_GREY, alpha=0.45, linewidth=1, label="training batches")
            if curves.val_top1:
                top1.plot(*_columns(curves.val_top1), color=_VAL, linewidth=1.8, marker="o", ms=4, label="validation")
            top1.set(ylabel="top-1, %", xlabel="step", ylim=(0, 102))
            top1.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.97), ncols=2)
            for panel in panels:
                panel.grid(True)
                panel.yaxis.set_label_coords(-0.115, 0.5)
            picture = io.BytesIO()
            figure.savefig(picture, format="svg", transparent=True, metadata={"Date": None})
        finally:
            plt.close(figure)
    return picture.getvalue()


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


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
                writer.write(_small(frame), number / float(fps))
        return writer.path


def _middle(video: Video, stride: int) -> Iterator[np.ndarray]:
    """Yield every ``stride``-th frame of the seconds in the middle."""
    count = min(len(video), max(1, round(_SECONDS * video.fps)))
    start = (len(video) - count) // 2
    numbers = np.arange(start, start + count, stride)
    for first in range(0, len(numbers), _CHUNK):
        yield from video.frames(numbers[first : first + _CHUNK])


def _small(frame: np.ndarray) -> np.ndarray:
    """Return a frame of at most ``_HEIGHT`` pixels height."""
    height, width = frame.shape[:2]
    if height <= _HEIGHT:
        return frame
    size = (max(1, round(width * _HEIGHT / height)), _HEIGHT)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
