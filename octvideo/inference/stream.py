"""Predictions over time: a window slides over a video or a stream, and frames are shown with what it saw.

::

    frames   0 . . . . . . . . . . . . . . . . . . . . . . . .
    window   [-------------- span --------------]
                         [-------------- span --------------]
             |<- every ->|

A stream knows the past alone: a frame gets the prediction of the last complete window. In a file a window may also look
ahead: a frame gets the prediction of the window that it is in the middle of.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from octvideo.inference.overlay import VideoWriter, annotate
from octvideo.inference.prediction import Prediction
from octvideo.inference.predictor import Predictor
from octvideo.inference.sources import FrameReader

__all__ = ["Update", "annotate_video", "timeline", "watch"]


class Update(NamedTuple):
    """A prediction of a stream.

    Attributes:
        frame: frames read so far.
        seconds: their time at the rate of the source.
        predictions: best first.
    """

    frame: int
    seconds: float
    predictions: list[Prediction]


def watch(
    reader: FrameReader,
    predictor: Predictor,
    *,
    top_k: int,
    every: int | None = None,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    writer: VideoWriter | None = None,
) -> Iterator[Update]:
    """Predicts a stream while it comes.

    The first prediction is made when the window is full, or at the end of a stream that is shorter than it.

    Args:
        reader: where frames come from. Where it is live and the network slower than the camera, predictions are made
            less often, so that they stay about the present.
        predictor: the network.
        top_k: predictions in an update.
        every: frames between predictions; None: half of the window.
        max_frames: stop after so many frames.
        max_seconds: stop after so many seconds by the clock.
        writer: gets every frame, with the predictions drawn on it.
    """
    span = predictor.span
    every = every or max(1, span // 2)
    window: deque[Tensor] = deque(maxlen=span)
    predictions: list[Prediction] = []
    count, due = 0, span
    start = time.monotonic()
    for frame in reader:
        count += 1
        window.append(predictor.crop(frame))
        if count >= due:
            begin = time.monotonic()
            predictions = predictor.predict_window(window, top_k)
            busy = math.ceil((time.monotonic() - begin) * float(reader.fps)) if reader.live else 0
            due = count + max(every, busy)
            yield Update(count, count / float(reader.fps), predictions)
        if writer is not None:
            writer.write(annotate(frame, predictions, "" if predictions else "waiting for frames"))
        if count == max_frames or (max_seconds is not None and time.monotonic() - start >= max_seconds):
            break
    if not predictions:
        yield Update(count, count / float(reader.fps), predictor.predict_window(window, top_k))


def annotate_video(source: Path, output: Path, predictor: Predictor, *, top_k: int, every: int | None = None) -> int:
    """Writes a video file with the predictions drawn on every frame, at its own frame rate.

    Args:
        source: a video file.
        output: the .mp4 to write.
        predictor: the network.
        top_k: predictions in the panel.
        every: frames between predictions; None: half of the window.

    Returns:
        The number of frames written.

    Raises:
        UserError: a file cannot be read or written.
    """
    every = every or max(1, predictor.span // 2)
    found = timeline(source, predictor, top_k=top_k, every=every)
    with FrameReader(str(source)) as reader, VideoWriter(output, reader.fps) as writer:
        for index, frame in enumerate(reader):
            writer.write(annotate(frame, found[min(index // every, len(found) - 1)]))
        return writer.frames


def timeline(source: Path, predictor: Predictor, *, top_k: int, every: int) -> list[list[Prediction]]:
    """Predictions along a video file: entry k is for the frames from ``k * every`` on.

    Its window has those frames in the middle, as far as the ends of the video allow it.

    Raises:
        UserError: the file cannot be read.
    """
    window: deque[Tensor] = deque(maxlen=predictor.span)
    found: list[list[Prediction]] = []
    count = 0
    with FrameReader(str(source)) as reader:
        for frame in reader:
            count += 1
            window.append(predictor.crop(frame))
            while count >= max(predictor.span, len(found) * every + every // 2 + predictor.span // 2):
                found.append(predictor.predict_window(window, top_k))
    if len(found) * every < count:  # the windows left would reach over the end: they are the last one that does not
        found.append(predictor.predict_window(window, top_k))
    return found
