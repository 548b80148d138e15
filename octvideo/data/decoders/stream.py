"""Open a video stream with PyAV, and turn its frames into upright RGB."""

from __future__ import annotations

import io
import os
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from octvideo.data.decoders.reader import scaled_size

__all__ = ["PYAV", "open_stream", "upright_rgb"]

PYAV = int(av.__version__.split(".")[0])  # the version


def open_stream(
    source: str | bytes, *, threads: int = 1, **options: Any
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open the stream that FFmpeg calls the best one, which may not be the first.

    Args:
        source: a path or an address, or the content of a file.
        threads: that decode; 0 is FFmpeg's choice.
        options: of ``av.open``.

    Raises:
        ValueError: there is no video stream.
        OSError, av.FFmpegError: PyAV cannot open it.
    """
    if PYAV < 19:
        options["metadata_errors"] = "replace"  # text that is not UTF-8 is no error
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if isinstance(file, str) and os.path.isfile(file):
        file = os.path.abspath(file)  # FFmpeg takes a relative `a:b.mp4` for an address
    container: av.container.InputContainer = av.open(file, "r", **options)
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        container.close()
        raise ValueError("no video stream")
    if stream.codec_context is not None:  # None: FFmpeg has no decoder for it
        stream.codec_context.thread_type = "SLICE"  # frame threads can hang on a corrupt file, and delay a camera
        stream.codec_context.thread_count = threads
    return container, stream


def upright_rgb(frame: av.VideoFrame, short_side: int | None = None) -> np.ndarray:
    """Convert a frame to RGB ``(H, W, 3)`` uint8, turned upright; with ``short_side`` scaled by the same conversion.

    The converter is new and has one thread. PyAV 19 keeps its own one with its threads, for which a forked process
    waits forever.
    """
    height, width = (None, None) if short_side is None else scaled_size(frame.height, frame.width, short_side)
    picture = VideoReformatter().reformat(frame, width, height, "rgb24", threads=1)
    return np.ascontiguousarray(np.rot90(picture.to_ndarray(), round(frame.rotation / 90) % 4))
