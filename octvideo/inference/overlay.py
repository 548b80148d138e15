"""Draw predictions on frames, and write frames as a video that plays everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image, ImageDraw, ImageFont

from octvideo.errors import UserError
from octvideo.files import discard, partial_path, replace_durably
from octvideo.fonts import font_for
from octvideo.inference.prediction import Prediction

__all__ = ["VideoWriter", "annotate", "output_scale"]

_TICK = Fraction(1, 90000)  # seconds: the usual rates, 30000/1001 too, are whole numbers of them
_BT709 = 1  # its number as matrix, primaries and transfer: what players expect of HD; tagged, smaller ones show it too
_MAX_SIDE = 4096  # pixels of an enlarged frame: limit of H.264 players and encoders
_MIN_SHORT_SIDE = 320  # pixels: below this text is unreadable
# Drawing replaces what is below, transparency included, so all of these are nearly opaque.
_PANEL = (12, 14, 20, 185)
_TRACK = (84, 90, 102, 215)
_TEXT = (255, 255, 255, 255)
_QUIET = (198, 204, 214, 255)
_BAR = (64, 196, 255, 255)
_QUIET_BAR = (58, 136, 172, 255)


def output_scale(width: int, height: int) -> int:
    """Return the integer factor by which frames of this size are enlarged before text is drawn."""
    wanted = -(-_MIN_SHORT_SIDE // min(width, height))
    return max(1, min(wanted, _MAX_SIDE // max(width, height)))


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


def annotate(
    frame: np.ndarray, predictions: Sequence[Prediction], note: str = "", *, sure: bool | None = None
) -> np.ndarray:
    """Return a copy of a frame with a panel of labels, score bars and percentages in the lower left corner::

        +--------------------------------+
        |                                |
        | +------------------------+     |
        | | arm wrestling     91 % |     |
        | | ##################---- |     |   the first prediction is bright, the others are muted
        | | shaking hands      4 % |     |
        | | #--------------------- |     |
        +--------------------------------+

    Args:
        frame: uint8 ``(H, W, 3)``. Small frames are enlarged by ``output_scale``.
        predictions: best first; those that fit are drawn. Empty: only the note.
        note: a line at the top of the panel.
        sure: False: the line is "not sure, closest:", and all predictions are muted.

    Returns:
        uint8 ``(H * scale, W * scale, 3)``.
    """
    first_quiet = 0 if sure is False else 1  # rank of the first muted prediction
    note = "not sure, closest:" if sure is False else note
    image = Image.fromarray(frame)
    scale = output_scale(*image.size)
    if scale > 1:
        image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    width, height = image.size
    size = max(14, round(min(width, height) / 26))
    numbers, small = _font(size, ""), _font(max(12, round(size * 0.72)), note)
    margin, pad = round(size * 0.7), round(size * 0.75)
    bar, line = max(4, round(size * 0.32)), round(size * 1.25)
    row = line + bar + round(size * 0.5)
    note_height = round(size * 1.15) if note else 0
    # Less than half of the frame: the action stays visible.
    shown = predictions[: max(1, int((0.42 * height - 2 * pad - note_height) // row))]
    panel_width = min(width - 2 * margin, round(size * 17))
    panel_height = 2 * pad + note_height + row * len(shown) - (round(size * 0.5) if shown else 0)
    layer = Image.new("RGBA", (panel_width, panel_height))
    draw = ImageDraw.Draw(layer)
    draw.rounded_rectangle((0, 0, panel_width - 1, panel_height - 1), radius=round(size * 0.5), fill=_PANEL)
    y = float(pad)
    if note:
        draw.text((pad, y + size * 0.2), _fit(note, small, panel_width - 2 * pad), _QUIET, font=small, anchor="lm")
        y += note_height
    for rank, prediction in enumerate(shown):
        percent = f"{100 * prediction.score:.0f} %"
        right = panel_width - pad
        font = _font(size, prediction.label)
        label = _fit(prediction.label, font, right - pad - numbers.getlength("100 %") - size * 0.5)
        middle = y + line * 0.45
        color, filled = (_QUIET, _QUIET_BAR) if rank >= first_quiet else (_TEXT, _BAR)
        draw.text((pad, middle), label, color, font=font, anchor="lm")
        draw.text((right, middle), percent, color, font=numbers, anchor="rm")
        y += line
        draw.rounded_rectangle((pad, y, right, y + bar), radius=bar / 2, fill=_TRACK)
        length = (right - pad) * min(1.0, prediction.score)
        if length >= bar:  # a shorter rounded bar cannot be drawn
            draw.rounded_rectangle((pad, y, pad + length, y + bar), radius=bar / 2, fill=filled)
        y += bar + round(size * 0.5)
    image.paste(layer, (margin, height - margin - panel_height), layer)
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
