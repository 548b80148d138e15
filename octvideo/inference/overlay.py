"""Draw predictions on frames, and write frames as a video that plays everywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageColor, ImageDraw, ImageFont

from octvideo.errors import UserError
from octvideo.files import discard, partial_path, replace_durably
from octvideo.fonts import font_for
from octvideo.inference.prediction import Prediction

if TYPE_CHECKING:
    from octvideo.inference.timeline import Segment

__all__ = ["VideoWriter", "annotate", "draw_status", "draw_strip", "label_colors", "output_scale"]

_TICK = Fraction(1, 90000)  # seconds: the usual rates, 30000/1001 too, are whole numbers of them
_BT709 = 1  # its number as matrix, primaries and transfer: what players expect of HD; tagged, smaller ones show it too
_MAX_SIDE = 4096  # pixels of an enlarged frame: limit of H.264 players and encoders
_MIN_SHORT_SIDE = 320  # pixels: below this text is unreadable
# Okabe and Ito's, which colour-blind people can tell apart, and three more. Light and dark take turns, for grey.
_LABEL_COLORS = (
    *("#56b4e9", "#d55e00", "#f0e442", "#0072b2", "#e69f00"),
    *("#6a3d9a", "#b2df8a", "#009e73", "#cc79a7", "#8c510a"),
)
_BAND = (18, 20, 27)
_TRACK = (84, 90, 102)
_TEXT = (255, 255, 255)
_QUIET = (198, 204, 214)
_BAR = (64, 196, 255)
_QUIET_BAR = (58, 136, 172)


def output_scale(width: int, height: int) -> int:
    """Return the integer factor by which frames of this size are enlarged before text is drawn."""
    wanted = -(-_MIN_SHORT_SIDE // min(width, height))
    return max(1, min(wanted, _MAX_SIDE // max(width, height)))


def _text_size(width: int, height: int) -> int:
    """Return the height of the text in pixels, of an enlarged frame."""
    return max(14, round(min(width, height) / 26))


def label_colors(segments: Sequence[Segment]) -> dict[str, str]:
    """Return the colour of each label, as ``#rrggbb``, in the order of their first segments; ten, then again."""
    labels = dict.fromkeys(segment.label for segment in segments)
    return dict(zip(labels, itertools.cycle(_LABEL_COLORS)))


@lru_cache(maxsize=1024)
def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font that has the letters of a text; Pillow's own one has ASCII."""
    return ImageFont.load_default(size) if text.isascii() else ImageFont.truetype(font_for(text).file, size)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Shorten a text to ``width`` pixels with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _percent(prediction: Prediction) -> str:
    return f"{100 * prediction.score:.0f} %"


def draw_strip(segments: Sequence[Segment], width: int, height: int) -> np.ndarray:
    """Return a strip with a bar for each segment, for ``annotate`` of ``(height, width, 3)`` frames: uint8.

    Bars have their labels where these fit. Segments that are not sure are grey.
    """
    scale = output_scale(width, height)
    size = _text_size(width * scale, height * scale)
    image = Image.new("RGB", (width * scale, round(size * 1.3)), _BAND)
    draw = ImageDraw.Draw(image)
    colors, per_second = label_colors(segments), image.width / segments[-1].end
    for segment in segments:
        left, right = round(segment.start * per_second), round(segment.end * per_second) - 2  # a gap between bars
        fill = _TRACK if segment.sure is False else ImageColor.getrgb(colors[segment.label])
        draw.rectangle((left, 0, max(left, right), image.height), fill)
        text = f"{segment.label} ?" if segment.sure is False else segment.label
        font = _font(max(12, round(size * 0.75)), text)
        if font.getlength(text) <= right - left - size // 4:
            is_light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 125
            color = _BAND if is_light else _TEXT
            draw.text(((left + right) / 2, image.height / 2), text, color, font=font, anchor="mm")
    return np.asarray(image)


def annotate(
    frame: np.ndarray,
    predictions: Sequence[Prediction],
    note: str = "",
    *,
    sure: bool | None = None,
    strip: np.ndarray | None = None,
    position: float = 0.0,
) -> np.ndarray:
    """Return a copy of a frame with a band of predictions below it; the picture stays as it is::

        +-----------------------------------+
        |                                   |
        |               frame               |
        |                                   |
        +-----------------------------------+
        | arm wrestling                91 % |
        | ############################----- |
        | shaking hands 4 %   clapping 2 %  |   the others that fit, muted
        | [ clapping |  arm wrestling     ] |   the strip, with a cursor
        +-----------------------------------+

    Args:
        frame: uint8 ``(H, W, 3)``. Small frames are enlarged by ``output_scale``.
        predictions: best first. Empty: only the note.
        note: a line in place of the first prediction.
        sure: False: the note is "not sure, closest:", and all predictions are muted.
        strip: from ``draw_strip``.
        position: of the cursor in the strip, 0 to 1.

    Returns:
        uint8 ``(H * scale + band, W * scale, 3)``. The band is as high for all frames of one size.
    """
    scale = output_scale(frame.shape[1], frame.shape[0])
    picture = Image.fromarray(frame)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    size = _text_size(picture.width, picture.height)
    pad, bar, line = round(size * 0.6), max(4, round(size * 0.32)), round(size * 1.4)
    left, right, y = pad, picture.width - pad, picture.height + round(size * 0.3)
    height = y + 2 * line + bar + (0 if strip is None else strip.shape[0] + pad // 2) + pad // 2
    image = Image.new("RGB", (picture.width, height), _BAND)
    image.paste(picture)
    draw = ImageDraw.Draw(image)
    title, others = ("not sure", predictions) if sure is False else (note, predictions[1:])
    percent = ""
    if not title and predictions:
        title, percent = predictions[0].label, _percent(predictions[0])
    numbers, font = _font(size, ""), _font(size, title)
    title = _fit(title, font, right - left - numbers.getlength("100 %") - size * 0.5)
    draw.text((left, y + line / 2), title, _QUIET if sure is False or note else _TEXT, font=font, anchor="lm")
    draw.text((right, y + line / 2), percent, _TEXT, font=numbers, anchor="rm")
    y += line
    if right - left >= bar:  # a shorter rounded bar cannot be drawn
        draw.rounded_rectangle((left, y, right, y + bar), radius=bar / 2, fill=_TRACK)
    length = (right - left) * min(1.0, predictions[0].score) if predictions else 0
    if length >= bar:
        fill = _QUIET_BAR if sure is False else _BAR
        draw.rounded_rectangle((left, y, left + length, y + bar), radius=bar / 2, fill=fill)
    y += bar
    text = "   ".join(f"{other.label} {_percent(other)}" for other in others)
    text = f"closest: {text}" if sure is False else text
    small = _font(max(12, round(size * 0.75)), text)
    draw.text((left, y + line / 2), _fit(text, small, right - left), _QUIET, font=small, anchor="lm")
    y += line
    if strip is not None:
        image.paste(Image.fromarray(strip), (0, y))
        middle, top, bottom = round(position * (picture.width - 1)), y - pad // 4, y + strip.shape[0] + pad // 4
        draw.rectangle((middle - 3, top, middle + 3, bottom), fill=_BAND)  # the cursor stands out on a light bar too
        draw.rectangle((middle - 1, top, middle + 1, bottom), fill=_TEXT)
    return np.asarray(image)


def draw_status(picture: np.ndarray, text: str) -> np.ndarray:
    """Return a copy of a picture from ``annotate`` with a line of text, in ASCII, in the upper left corner."""
    image = Image.fromarray(picture)
    size = max(14, round(min(image.size) / 26))
    font = _font(size, "")  # one for all texts, which change all the time
    margin, pad = round(size * 0.7), round(size * 0.5)
    layer = Image.new("RGBA", (round(font.getlength(text)) + 2 * pad, round(size * 1.25) + pad))
    draw = ImageDraw.Draw(layer)
    draw.rounded_rectangle((0, 0, layer.width - 1, layer.height - 1), radius=pad, fill=(*_BAND, 200))
    draw.text((pad, layer.height / 2), text, _TEXT, font=font, anchor="lm")
    image.paste(layer, (margin, margin), layer)
    return np.asarray(image)


class VideoWriter:
    """Write frames as H.264 in .mp4 (yuv420p, even size, index at the front). A context manager.

    The video has the first frame's size, rounded up to even, and BT.709's colours. It appears when it is complete.

    Args:
        path: ends in .mp4; missing folders are made.
        fps: average frames per second, for the encoder. Each frame is shown from its own time on.

    Raises:
        UserError: the name does not end in .mp4, or the file cannot be written.
    """

    def __init__(self, path: Path, fps: Fraction) -> None:
        if path.suffix.lower() != ".mp4":
            raise UserError(f"--output {path}: the annotated video is an .mp4; choose a name that ends in .mp4")
        self.path, self.fps, self.frames, self._last = path, fps, 0, -1
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(0, "it is a folder")
            self._partial = partial_path(path)
            self._container = av.open(str(self._partial.absolute()), "w", options={"movflags": "+faststart"})
        except (OSError, av.FFmpegError) as error:
            raise UserError(f"--output {path}: cannot be written ({error.strerror})") from None
        self._stream: av.VideoStream | None = None
        self._failed = False

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, frame: np.ndarray, time: float) -> None:
        """Add a frame: uint8 ``(H, W, 3)``, of the first one's size, and its time in seconds."""
        height, width = frame.shape[:2]
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=self.fps)
            self._stream.width, self._stream.height = width + width % 2, height + height % 2
            self._stream.pix_fmt = "yuv420p"
            context = self._stream.codec_context
            context.time_base = _TICK
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = ColorRange.MPEG
            self._stream.options = {"crf": "20", "preset": "veryfast"}
        if height % 2 or width % 2:  # the last row or column is repeated
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._last = max(self._last + 1, round(time / _TICK))
        picture.pts, picture.time_base = self._last, _TICK
        self._mux(picture)
        self.frames += 1

    def _mux(self, picture: av.VideoFrame | None) -> None:
        assert self._stream is not None
        try:
            self._container.mux(self._stream.encode(picture))
        except (OSError, av.FFmpegError) as error:
            self._failed = True
            raise UserError(f"--output {self.path}: cannot be written ({error.strerror})") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Finish the file. Without a frame, or after a failure, no file is left."""
        try:
            if self._stream is not None and not self._failed:
                self._mux(None)
            self._container.close()
            if kind is None and self._stream is not None and not self._failed:
                replace_durably(self._partial, self.path)
        except (OSError, av.FFmpegError) as failure:
            if kind is None:
                raise UserError(f"--output {self.path}: cannot be written ({failure.strerror})") from None
        finally:
            discard(self._partial)
