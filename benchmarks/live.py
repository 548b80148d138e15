#!/usr/bin/env python
"""Measure the window of `predict --webcam` on a stream of 25 frames per second, from outside.

Each frame carries its number as black and white blocks. What is on the screen is read many times a second, so a frame's
delay is the time from its first byte in the server to its pixels on the screen; it is exact to the pause between looks.
Needs an X server and the development tools:
`xvfb-run -a python benchmarks/live.py CLIP --json benchmarks/results/live.json`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from Xlib import X
from Xlib.display import Display

from octvideo.benchmarking.timing import hardware
from octvideo.inference.sources import FrameReader

ROOT = Path(__file__).resolve().parents[1]
SIZE = (640, 480)  # pixels of a frame
BITS, BLOCK = 16, 16  # of a number; pixels of a bit: at the right edge, from the top down
FPS = 25
LOOK = 0.01  # seconds between looks at the screen


class Camera(ThreadingHTTPServer):
    """Streams a clip again and again as JPEGs, numbered over all connections; notes when each was sent."""

    daemon_threads = True

    def __init__(self, clip: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        with FrameReader(clip) as reader:
            self.pictures = [Image.fromarray(frame).resize(SIZE) for frame in reader]
        self.sent: dict[int, float] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        begin, first = time.monotonic(), 1 + len(self.server.sent)  # 0 is a black screen
        try:
            for count in range(2**BITS):
                time.sleep(max(0.0, begin + count / FPS - time.monotonic()))
                image = _jpeg(self.server.pictures, first + count)
                self.server.sent[first + count] = time.monotonic()
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(image))
                self.wfile.write(image + b"\r\n")
        except ConnectionError:
            pass  # the command has ended

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def _jpeg(pictures: list[Image.Image], number: int) -> bytes:
    picture = pictures[number % len(pictures)].copy()
    draw = ImageDraw.Draw(picture)
    for bit in range(BITS):
        place = (SIZE[0] - BLOCK, bit * BLOCK, SIZE[0] - 1, (bit + 1) * BLOCK - 1)
        draw.rectangle(place, fill="white" if number >> bit & 1 else "black")
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=90)
    return file.getvalue()


def _number_on(screen: Any) -> int:
    """Return the number of the frame that is on the screen, whose window is in the upper left corner."""
    column = screen.get_image(SIZE[0] - BLOCK // 2, 0, 1, BITS * BLOCK, X.ZPixmap, 0xFFFFFFFF).data
    levels = np.frombuffer(column, np.uint8).reshape(-1, 4)[BLOCK // 2 :: BLOCK, 1]
    return sum(int(level > 127) << bit for bit, level in enumerate(levels))


def _memory(process: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1.024e-3


def watch(camera: Camera, process: subprocess.Popen[bytes], seconds: float) -> list[tuple[float, int, float, float]]:
    """Return (seconds, number, delay in s, memory in MB) of every frame that is seen, for a time from the first one."""
    screen = Display().screen().root
    seen: list[tuple[float, int, float, float]] = []
    last, begin = -1, 0.0
    while not begin or time.monotonic() - begin < seconds:
        if process.poll() is not None:
            raise SystemExit("error: the command has ended")
        number, now = _number_on(screen), time.monotonic()
        if number > last and number in camera.sent and now >= camera.sent[number]:
            begin = begin or now
            seen.append((now - begin, number, now - camera.sent[number], _memory(process.pid)))
            last = number
        time.sleep(LOOK)
    return seen


def _minute(seen: list[tuple[float, int, float, float]], start: float) -> dict[str, float]:
    rows = [row for row in seen if start <= row[0] < start + 60]
    delays = [1000 * row[2] for row in rows]
    sent = rows[-1][1] - rows[0][1] + 1
    return {
        "frames_sent": sent,
        "frames_dropped": sent - len(rows),
        "latency_ms_median": float(np.median(delays)),
        "latency_ms_p95": float(np.percentile(delays, 95)),
        "rss_mb": rows[-1][3],
    }


def main() -> None:
    """Run the command for some minutes and print what was seen in the first and in the last one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("clip", help="a video; it is repeated")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    camera = Camera(args.clip)
    command = [sys.executable, str(ROOT / "demo" / "predict.py"), "--webcam"]
    with subprocess.Popen([*command, f"http://127.0.0.1:{camera.server_port}/"]) as process:
        try:
            seen = watch(camera, process, 60 * args.minutes)
        finally:
            process.terminate()
    sent = seen[-1][1] - seen[0][1] + 1
    result = {
        "benchmark": "live",
        "hardware": hardware(),
        "versions": {name: version(name) for name in ("opencv-python", "av", "openvino")},
        "load": [round(load, 1) for load in os.getloadavg()],  # of the machine, this and all others
        "fps": FPS,
        "frame": SIZE,
        "minutes": args.minutes,
        "frames_sent": sent,
        "frames_dropped": sent - len(seen),
        "first_minute": _minute(seen, 0),
        "last_minute": _minute(seen, 60 * (args.minutes - 1)),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
