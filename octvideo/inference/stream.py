"""Predict over time: slide a window over a stream.

::

    frames   0 . . . . . . . . . . . . . . . . . . . . . . . .
    window   [-------------- span --------------]
                         [-------------- span --------------]
             |<- every ->|

In a stream only the past is known: a frame gets the prediction of the last complete window. For files, where a window
may look ahead, see ``octvideo.inference.timeline``.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from octvideo.inference.overlay import VideoWriter, annotate
from octvideo.inference.prediction import Prediction
from octvideo.inference.predictor import Predictor
from octvideo.inference.sources import FrameReader

__all__ = ["StreamPrediction", "predict_stream"]


class StreamPrediction(NamedTuple):
    """A prediction during a stream.

    Attributes:
        frame: number of frames read so far.
        seconds: time of the last of them, see ``FrameReader.time``.
        predictions: best first.
        sure: see ``Predictor.is_sure``.
    """

    frame: int
    seconds: float
    predictions: list[Prediction]
    sure: bool | None


def predict_stream(
    reader: FrameReader,
    predictor: Predictor,
    *,
    top_k: int,
    every: int | None = None,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    writer: VideoWriter | None = None,
) -> Iterator[StreamPrediction]:
    """Predict a stream as its frames arrive.

    The first prediction comes when the window is full, or at the end of a shorter stream.

    Args:
        reader: source of the frames. If it is live and the network slower than the camera, predictions become rarer, so
            that they stay current.
        predictor: the network.
        top_k: number of classes per prediction.
        every: frames between predictions; None: half of the window.
        max_frames: stop after this many frames.
        max_seconds: stop after this many seconds of real time.
        writer: receives every frame with the predictions drawn on it.
    """
    span = predictor.span
    every = every or max(1, span // 2)
    window: deque[Tensor] = deque(maxlen=span)
    predictions: list[Prediction] = []
    sure: bool | None = None
    count, due, opened = 0, span, reader.opened
    start = time.monotonic()
    for frame in reader:
        if reader.opened != opened:  # a window has no gap
            window.clear()
            due, opened = count + span, reader.opened
        count += 1
        window.append(predictor.crop(frame))
        if count >= due:
            begin = time.monotonic()
            predictions = predictor.predict_window(window, top_k)
            sure = predictor.is_sure(predictions)
            busy = math.ceil((time.monotonic() - begin) * float(reader.fps)) if reader.live else 0
            due = count + max(every, busy)
            yield StreamPrediction(count, reader.time, predictions, sure)
        if writer is not None:
            writer.write(
                annotate(frame, predictions, "" if predictions else "waiting for frames", sure=sure), reader.time
            )
        if count == max_frames or (max_seconds is not None and time.monotonic() - start >= max_seconds):
            break
    if not predictions:
        predictions = predictor.predict_window(window, top_k)
        yield StreamPrediction(count, reader.time, predictions, predictor.is_sure(predictions))
