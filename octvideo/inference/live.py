"""Read and predict a camera, a stream or a file side by side, so that what is shown stays current.

::

    capture thread --- newest picture ----------------> next_picture(), for the thread that draws
          |
          +----------- crops of the last window ------> network thread --- answer

Each arrow holds what is newest: what was not taken in time is dropped, so a slow network or screen adds no delay.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from types import TracebackType
from typing import NamedTuple

import numpy as np
from torch import Tensor

from octvideo.inference.prediction import Prediction
from octvideo.inference.predictor import Predictor
from octvideo.inference.sources import FrameReader, open_camera

__all__ = ["Answer", "LiveStream", "Picture"]

_PATIENCE = 2.0  # seconds for the threads to end; a camera that hangs may take 15, and ends with the process


class Picture(NamedTuple):
    """A frame, uint8 ``(H, W, 3)``, and when it arrived, by ``time.monotonic``."""

    frame: np.ndarray
    arrived: float


class Answer(NamedTuple):
    """A prediction.

    Attributes:
        predictions: best first.
        sure: see ``Predictor.is_sure``.
        arrived: when the last frame of its clip arrived, by ``time.monotonic``.
    """

    predictions: list[Prediction]
    sure: bool | None
    arrived: float


class LiveStream:
    """Read a source in one thread and predict it in another. A context manager: the threads run inside of it.

    A file is read at its own pace.

    Attributes:
        answer: the last one; None before the first window is full.
        ended: nothing comes any more.
        paused: set it, and no prediction is made; a file stops, a camera does not.

    Args:
        source: see ``open_camera``. The capture thread opens and closes it.
        predictor: the network.
        top_k: number of classes per prediction.
        every: frames between predictions, at least; None: half of the window.
        max_frames: stop after this many frames.
        max_seconds: stop after this many seconds.
    """

    def __init__(
        self,
        source: str,
        predictor: Predictor,
        *,
        top_k: int,
        every: int | None = None,
        max_frames: int | None = None,
        max_seconds: float | None = None,
    ) -> None:
        self._source, self._predictor, self._top_k = source, predictor, top_k
        self._every = every or max(1, predictor.span // 2)
        self._max_frames, self._max_seconds = max_frames, max_seconds
        self.answer: Answer | None = None
        self.ended = self.paused = False
        self._change, self._stopped = threading.Condition(), threading.Event()
        self._picture: Picture | None = None
        self._crops: deque[Tensor] = deque(maxlen=predictor.span)
        self._count, self._arrived = 0, 0.0  # frames read, and the time of the last one
        self._due = 0  # frame of the next prediction
        self._error: Exception | None = None
        # Daemons: a thread that waits for a camera cannot be woken, and must not keep the process.
        self._threads = [
            threading.Thread(target=work, name=f"octvideo {name}", daemon=True)
            for name, work in (("capture", self._capture), ("network", self._predict))
        ]

    def __enter__(self) -> LiveStream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        with self._change:
            self._change.notify_all()
        for thread in self._threads:
            thread.join(_PATIENCE)

    def next_picture(self, timeout: float) -> Picture | None:
        """Return the newest picture, each once; None if none comes within ``timeout`` seconds.

        Raises:
            UserError: the source cannot be read.
        """
        with self._change:
            self._change.wait_for(lambda: self._picture is not None or self.ended, timeout)
            picture, self._picture = self._picture, None
        if picture is None and self._error is not None:
            raise self._error
        return picture

    def _capture(self) -> None:
        try:
            with open_camera(self._source, self._stopped) as reader:
                self._read(reader)
        except Exception as error:
            self._error = error
        finally:
            self._end()

    def _read(self, reader: FrameReader) -> None:
        opened, begin, start = reader.opened, time.monotonic(), None
        for frame in reader:
            if not reader.live:  # at its own pace, from ``start`` on
                while self.paused and not self._stopped.wait(0.02):
                    start = None
                start = time.monotonic() - reader.time if start is None else start
                self._stopped.wait(max(0.0, start + reader.time - time.monotonic()))
            if self._stopped.is_set():
                break
            picture = Picture(frame, time.monotonic())
            crop = self._predictor.crop(frame)
            with self._change:
                if reader.opened != opened:  # a window has no gap
                    opened, self.answer = reader.opened, None
                    self._crops.clear()
                self._crops.append(crop)
                self._picture, self._arrived = picture, picture.arrived
                self._count += 1
                self._change.notify_all()
            if self._count == self._max_frames:
                break
            if self._max_seconds is not None and time.monotonic() - begin >= self._max_seconds:
                break

    def _predict(self) -> None:
        try:
            while True:
                with self._change:
                    self._change.wait_for(lambda: self._is_over() or self._is_due())
                    if self._is_over():
                        break
                    crops, arrived, self._due = list(self._crops), self._arrived, self._count + self._every
                predictions = self._predictor.predict_window(crops, self._top_k)
                self.answer = Answer(predictions, self._predictor.is_sure(predictions), arrived)
        except Exception as error:
            self._error = error
            self._end()

    def _is_over(self) -> bool:
        return self.ended or self._stopped.is_set()

    def _is_due(self) -> bool:
        return not self.paused and self._count >= self._due and len(self._crops) == self._predictor.span

    def _end(self) -> None:
        with self._change:
            self.ended = True
            self._change.notify_all()
