"""A web server on 127.0.0.1 that gives parts of the files of a folder, as object stores do."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class ShardServer(ThreadingHTTPServer):
    """Answers ``GET`` and ``HEAD`` of files in ``folder``.

    Attributes:
        ranges: whether parts are served; else every answer is the whole file.
        served: (name, bytes of the body) of all answers to GET.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, True
        self.served: list[tuple[str, int]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it and its thread."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ShardServer

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = self.server.folder / self.path.strip("/")
        if not file.is_file():
            self._answer(404, b"")
            return
        data = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not (wanted and self.server.ranges):
            self._answer(200, data)
            return
        first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
        if first >= len(data):
            self._answer(416, b"", f"bytes */{len(data)}")
            return
        part = data[first : last + 1]
        self._answer(206, part, f"bytes {first}-{first + len(part) - 1}/{len(data)}")

    def _answer(self, status: int, body: bytes, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if self.server.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.server.served.append((self.path.strip("/"), len(body)))

    def log_message(self, *_: object) -> None:
        pass
