"""An IP camera on 127.0.0.1: JPEGs as multipart/x-mixed-replace, with faults on demand."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from octvideo.inference.sources import FrameReader


def jpegs(video: Path) -> list[bytes]:
    """Return the frames of a video as JPEGs."""
    images = []
    with FrameReader(str(video)) as reader:
        for frame in reader:
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "jpeg", quality=95)
            images.append(file.getvalue())
    return images


def numbered_jpegs(count: int) -> list[bytes]:
    """Return up to 25 grey pictures, 80 x 64 pixels, whose level is their number."""
    images = []
    for number in range(count):
        file = io.BytesIO()
        Image.new("RGB", (80, 64), (10 * number,) * 3).save(file, "jpeg")
        images.append(file.getvalue())
    return images


def number_of(frame: np.ndarray) -> int:
    """Return the number of a picture of ``numbered_jpegs``."""
    return round(frame.mean() / 10)


class CameraServer(ThreadingHTTPServer):
    """Answers every request with a stream that begins with the first frame and repeats them. A context manager.

    Attributes:
        frames: JPEGs.
        fps: frames per second; None: as fast as the client takes them.
        plan: (frames, ending) of the first, second, ... connection; the last one is for all later ones, too.
            Endings: "end" (the stream says so), "cut" (it does not), "hang". No frames and "cut": HTTP 503.
        connected: number of clients that are being served.
    """

    daemon_threads = True

    def __init__(self, frames: Sequence[bytes], fps: float | None = None, plan: list[tuple[int, str]] | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.frames, self.fps = frames, fps
        self.plan = plan or [(len(frames), "end")]
        self.connected, self.lock = 0, threading.Lock()
        self.released = threading.Event()  # ends connections that hang
        self.url = f"http://127.0.0.1:{self.server_port}/stream"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def count(self, difference: int) -> None:
        """Add to ``connected``."""
        with self.lock:
            self.connected += difference


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CameraServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            count, ending = server.plan.pop(0) if len(server.plan) > 1 else server.plan[0]
        self.close_connection = True
        if (count, ending) == (0, "cut"):
            self.send_error(503)
            return
        server.count(1)
        try:
            self._stream(count, ending)
        except ConnectionError:
            pass  # the client has seen enough
        finally:
            server.count(-1)

    def _stream(self, count: int, ending: str) -> None:
        """Only chunks can say that they end; FFmpeg takes the end of anything else for an error."""
        server = self.server
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        if ending == "end":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        start = time.monotonic()
        for number in range(count):
            image = server.frames[number % len(server.frames)]
            head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image)
            part = head + image + b"\r\n"
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part) if ending == "end" else part)
            if server.fps is not None and server.released.wait(max(0, start + number / server.fps - time.monotonic())):
                return
        if ending == "end":
            self.wfile.write(b"0\r\n\r\n")
        elif ending == "hang":
            server.released.wait()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
