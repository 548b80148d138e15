"""A web server on 127.0.0.1 that serves files, with faults on demand."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class VideoServer(ThreadingHTTPServer):
    """Answers ``GET /NAME``.

    Attributes:
        files: bytes by name; others are 404.
        versions: ETags by name; without one there is no ETag.
        replacements: files and ETags that replace others after the first request for a name.
        ranges: serve parts of files without an ETag, too.
        faults: by name, what goes wrong with the first, second, ... request; "" for nothing; see ``_Handler``.
        requests: (name, Range header, seconds) of every request.
        reached: set when an answer with the fault "hang" has sent its first half; it ends with ``release``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.versions: dict[str, str] = {}
        self.replacements: dict[str, tuple[bytes, str]] = {}
        self.ranges = False
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None, float]] = []
        self.reached, self.release = threading.Event(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the server and its thread."""
        self.release.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def asked(self, name: str) -> list[str | None]:
        """Return the Range headers of the requests for a name."""
        return [header for other, header, _ in self.requests if other == name]


class _Handler(BaseHTTPRequestHandler):
    """Faults: a status; ``429 SECONDS`` (Retry-After); drop, hang (in the middle of the body); page (a text); endless
    (no length, half of the body); other part (than the Range header asks for).
    """

    protocol_version = "HTTP/1.1"
    server: VideoServer

    def do_GET(self) -> None:
        name = self.path.strip("/").removesuffix(".mp4")
        self.server.requests.append((name, self.headers.get("Range"), time.monotonic()))
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault[:1].isdigit():
            status, _, wait = fault.partition(" ")
            self._head(int(status), 0, **({"Retry-After": wait} if wait else {}))
        elif fault == "page":
            self._head(200, 26)
            self.wfile.write(b"<html>not a video...</html>"[:26])
        elif name not in self.server.files:
            self._head(404, 0)
        else:
            self._file(name, fault)

    def _file(self, name: str, fault: str) -> None:
        server = self.server
        data, version = server.files[name], server.versions.get(name)
        if name in server.replacements:
            server.files[name], server.versions[name] = server.replacements.pop(name)
        wanted = self.headers.get("Range", "")
        same = self.headers.get("If-Range") in (None, version)
        more = {"ETag": version} if version else {}
        if (version or server.ranges) and wanted.startswith("bytes=") and same:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(len(data) - 1, int(last or len(data)))
            if start > end:
                self._head(416, 0, **{"Content-Range": f"bytes */{len(data)}"})
                return
            start = 0 if fault == "other part" else start
            self._head(206, end + 1 - start, **more, **{"Content-Range": f"bytes {start}-{end}/{len(data)}"})
            data = data[start : end + 1]
        elif fault == "endless":
            self.close_connection = True
            self._head(200, None, Connection="close")
        else:
            self._head(200, len(data), **more)
        if fault in ("drop", "hang", "endless"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if fault == "hang":
                self.server.reached.set()
                self.server.release.wait(60)
            self.close_connection = True
        else:
            self.wfile.write(data)

    def _head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Type", "video/mp4")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client was killed
            pass
