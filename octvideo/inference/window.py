"""A window, by OpenCV, that shows a stream with its predictions as it comes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections import deque
from typing import Any

import matplotlib
import numpy as np

from octvideo.inference.live import Answer, LiveStream, Picture
from octvideo.inference.overlay import annotate, draw_status

__all__ = ["Window", "open_window", "watch"]

_TITLE = "octvideo"
_MAX_SIDE = 1280  # pixels of the window as it opens
_TURN = 0.05  # seconds to wait for a picture before the window's events are handled
_REDRAW = 0.5  # seconds between pictures where none comes
_SILENCE = 2.0  # seconds without a picture after which the window says so


def open_window() -> Window | None:
    """Return a window, which appears with its first picture; None without a display.

    Where there is a display, but OpenCV is missing, a line on standard error says so.
    """
    linux = sys.platform == "linux"
    if linux and not os.environ.get("DISPLAY"):
        return None
    try:
        import cv2

        if not cv2.currentUIFramework():
            raise ImportError("this OpenCV has no windows")
    except ImportError as error:
        print(f"no window ({error}): pip install 'octvideo[window]'", file=sys.stderr)
        return None
    return Window(cv2) if not linux or _has_x_server() else None


def _has_x_server() -> bool:
    """Connect to the display: Qt, in OpenCV, would abort the process where that fails."""
    x11 = ctypes.CDLL("libX11.so.6")  # OpenCV could not be imported without it
    x11.XOpenDisplay.restype = ctypes.c_void_p
    display = x11.XOpenDisplay(None)
    if display:
        x11.XCloseDisplay(ctypes.c_void_p(display))
    return bool(display)


class Window:
    """A window of OpenCV; all calls come from the main thread.

    Args:
        cv2: the module.
    """

    def __init__(self, cv2: Any) -> None:
        self._cv2, self._shown = cv2, False
        cv2.setNumThreads(1)  # pictures are small, and waiting threads would take time from the network
        # OpenCV's Qt comes without fonts and says so at length.
        os.environ["QT_QPA_FONTDIR"] = os.path.join(matplotlib.get_data_path(), "fonts", "ttf")

    def show(self, picture: np.ndarray) -> None:
        """Show a picture: uint8 ``(H, W, 3)`` RGB."""
        cv2 = self._cv2
        if not self._shown:
            height, width = picture.shape[:2]
            scale = min(1.0, _MAX_SIDE / max(height, width))
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(_TITLE, round(width * scale), round(height * scale))
            self._shown = True
        cv2.imshow(_TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def key(self) -> str:
        """Handle the window's events and return the key that was pressed, in lower case; "" if none was."""
        code = self._cv2.waitKey(1)
        return chr(code & 0xFF).lower() if code >= 0 else ""

    def is_closed(self) -> bool:
        """Tell whether the user has closed the window."""
        try:
            return self._shown and self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE) < 1
        except self._cv2.error:  # Qt's, of a window that is gone
            return True

    def close(self) -> None:
        """Close the window."""
        self._cv2.destroyAllWindows()
        self._cv2.waitKey(1)


def watch(stream: LiveStream, window: Window) -> None:
    """Show a stream until it ends, the window is closed or q is pressed. Space pauses, m mirrors the picture.

    Raises:
        UserError: the source cannot be read.
    """
    meter, mirrored = _Meter(), False
    current: Picture | None = None
    drawn = 0.0
    while not window.is_closed():
        picture = stream.next_picture(_TURN)
        if picture is None and stream.ended:
            break
        fresh = picture is not None and not stream.paused
        if fresh:
            current = picture
        if current is not None and (fresh or time.monotonic() - drawn > _REDRAW):
            status = "paused" if stream.paused else meter.text(current)
            window.show(_draw(current, stream.answer, status, mirrored))
            drawn = time.monotonic()
            if fresh:
                meter.add(current, stream.answer, drawn)
        key = window.key()
        if key == "q":
            break
        if key == " ":
            stream.paused = not stream.paused
        elif key == "m":
            mirrored = not mirrored
        if key:
            drawn = 0.0


def _draw(picture: Picture, answer: Answer | None, status: str, mirrored: bool) -> np.ndarray:
    frame = np.ascontiguousarray(picture.frame[:, ::-1]) if mirrored else picture.frame
    predictions, sure = (answer.predictions, answer.sure) if answer else ([], None)
    return draw_status(annotate(frame, predictions, "" if answer else "waiting for frames", sure=sure), status)


class _Meter:
    """Measures the rate and the delay of what is shown, over the last second."""

    def __init__(self) -> None:
        self._shown: deque[tuple[float, float]] = deque()  # when, and the seconds from arrival until then
        self._answer: Answer | None = None
        self._delay = 0.0  # of the answer

    def add(self, picture: Picture, answer: Answer | None, now: float) -> None:
        """Count a picture that was shown with an answer."""
        self._shown.append((now, now - picture.arrived))
        while now - self._shown[0][0] > 1:
            self._shown.popleft()
        if answer is not None and answer is not self._answer:
            self._answer, self._delay = answer, now - answer.arrived

    def text(self, picture: Picture) -> str:
        """Return the line to show with a picture."""
        silence = time.monotonic() - picture.arrived
        if silence > _SILENCE:
            return f"no picture for {silence:.0f} s"
        if len(self._shown) < 2:
            return "..."
        rate = (len(self._shown) - 1) / (self._shown[-1][0] - self._shown[0][0])
        delay = sum(each for _, each in self._shown) / len(self._shown)
        answer = f"  answer {1000 * self._delay:.0f} ms" if self._answer else ""
        return f"{rate:.0f} fps  picture {1000 * delay:.0f} ms{answer}"
