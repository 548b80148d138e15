"""Download files, or sections of online videos, with yt-dlp."""

from __future__ import annotations

import email.utils
import logging
import optparse
import os
import random
import re
import shutil
import time
from collections.abc import Sequence
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import yt_dlp
from yt_dlp.networking import Request, Response
from yt_dlp.networking.exceptions import HTTPError, TransportError
from yt_dlp.utils import YoutubeDLError

from data_tools.kinetics.media import MediaError, require_video
from data_tools.kinetics.sources import DISK_ERRORS, NotFetched, fill
from octvideo.data.annotations import Segment
from octvideo.errors import UserError
from octvideo.files import writing

__all__ = ["Web", "classify"]

_LONGEST_PAUSE = 3600.0  # seconds; a server that asks for more ends the run
_LONGEST_BACKOFF = 60.0
_QUIET = "--ignore-config --quiet --no-warnings --no-progress --no-playlist --no-mtime --abort-on-error".split()
# Small blocks, as yt-dlp loses the block in which a transfer breaks off.
_WHOLE_FILES = "--fixup never --buffer-size 64K --no-resize-buffer".split()
_SECTIONS = (
    *("--force-keyframes-at-cuts", "--remux-video", "mp4"),
    # No sound where possible; 480 lines, or the nearest above; the codec that is the cheapest to decode.
    *("--format", "bv/b", "--format-sort", "res:480,vcodec:h264"),
)

# Patterns of yt-dlp's errors, searched for in this order. A server of files answers for each file. YouTube refuses a
# client for a while with 403 and 429, which say nothing about the video.
_FILE_ERRORS = (("gone", r"HTTP Error (404|410)"), ("private", r"HTTP Error (401|403)"))
_PAGE_ERRORS = (
    ("failed", r"not a bot|HTTP Error (403|429)|rate-limited|too many requests"),
    ("private", r"private video|video is private|members.only|join this channel|confirm your age|age.restricted"),
    ("private", r"HTTP Error 401|login required|requires payment|not made this video available in your country"),
    ("private", r"not available in your (country|location)|geo.?restrict"),
    ("gone", r"HTTP Error (404|410)|removed|terminated|no longer available|video unavailable|video is not available"),
    ("gone", r"does not exist|incomplete youtube id"),
)


def classify(message: str, *, page: bool) -> str:
    """Return the status that an error message of yt-dlp stands for: gone, private, or failed."""
    patterns = _PAGE_ERRORS if page else _FILE_ERRORS
    return next((status for status, pattern in patterns if re.search(pattern, message, re.IGNORECASE)), "failed")


class Web:
    """Files of a web server, or sections of the videos on web pages. Worker processes forked later share its limits.

    Args:
        template: the address of a file or a page, see ``fill``.
        options: command-line options of yt-dlp.
        sections: download only the section of the clip from the video on a page, and cut it exactly.
        interval: seconds between two requests of a worker.
        backoff: seconds before the second attempt; doubled for each further one.

    Raises:
        UserError: yt-dlp does not accept an option or the cookies, or there is no ffmpeg, which cuts sections.
    """

    def __init__(
        self, template: str, options: Sequence[str], *, sections: bool, interval: float, backoff: float
    ) -> None:
        self._template, self._sections, self._backoff = template, sections, backoff
        self.attempts = 0
        try:
            params = yt_dlp.parse_options([*_QUIET, *(_SECTIONS if sections else _WHOLE_FILES), *options]).ydl_opts
        except optparse.OptParseError as error:
            raise UserError(f"{str(error).strip().rpartition('error: ')[2]}; see yt-dlp --help") from None
        if sections and not params.get("ffmpeg_location") and shutil.which("ffmpeg") is None:
            raise UserError("--yt-dlp: no ffmpeg program, which cuts the videos; install it (apt install ffmpeg)")
        sleep = dict.fromkeys(("http", "fragment", "extractor"), self._before_retry)
        params["retry_sleep_functions"] = sleep | params["retry_sleep_functions"]
        params["logger"] = logging.Logger("silent", logging.CRITICAL + 1)  # errors come as exceptions
        self._client = _Client(params, interval)
        try:
            self._client.cookiejar  # noqa: B018  # reads the file
        except YoutubeDLError:
            raise UserError(f"--cookies {params['cookiefile']}: not a cookie file in Netscape format") from None

    def _before_retry(self, n: int) -> float:
        self.attempts += 1
        return min(_LONGEST_BACKOFF, self._backoff * 2**n)

    def fetch(self, segment: Segment, folder: Path) -> Path:
        """Download a file, or resume it, or download a section; see ``Source``."""
        self.attempts = 1
        url = fill(self._template, segment, quoted=True)
        self._client.params["outtmpl"]["default"] = str(folder).replace("%", "%%") + "/video.%(ext)s"
        try:
            return self._fetch_section(url, segment, folder) if self._sections else self._fetch_file(url, folder)
        except (NotFetched, UserError):
            raise
        except Exception as error:  # yt-dlp's many extractors raise errors of any kind
            cause = (getattr(error, "exc_info", None) or (None, error))[1]
            if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
                with writing(folder):
                    raise cause from None
            message = str(error).removeprefix("ERROR: ")
            raise NotFetched(classify(message, page=self._sections), message) from None

    def _fetch_file(self, url: str, folder: Path) -> Path:
        path = folder / "video.mp4"
        self._client.guard(folder / "video.mp4.part")
        # Not by an extractor, which would search an error page for videos.
        self._client.process_ie_result({"id": "video", "title": "video", "url": url, "ext": "mp4"}, download=True)
        if not self._client.length_known:  # the file ended where the connection did, wherever that was
            try:
                require_video(path, whole=True)
            except MediaError as error:
                path.unlink()
                raise NotFetched("failed", str(error)) from None
        return path

    def _fetch_section(self, url: str, segment: Segment, folder: Path) -> Path:
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)  # whoever kills this worker kills its ffmpeg, too
        shutil.rmtree(folder)  # ffmpeg does not resume
        folder.mkdir()
        section = {"start_time": segment.start, "end_time": segment.end}
        self._client.params["download_ranges"] = lambda info, ydl: [section]
        self._client.extract_info(url, download=True)
        files = [path for path in folder.glob("video.*") if path.suffix not in (".part", ".ytdl")]
        if len(files) != 1:
            raise NotFetched("failed", "yt-dlp ended without a file")
        return files[0]


class _Client(yt_dlp.YoutubeDL):
    """yt-dlp, except that it keeps to a rate, obeys Retry-After and never joins parts of two versions of a file.

    Args:
        params: see yt-dlp.
        interval: seconds between two requests of a worker.
    """

    def __init__(self, params: dict[str, Any], interval: float) -> None:
        super().__init__(params)
        self._interval = interval
        self._next_request: float | None = None
        self._paused_until = RawValue("d", 0.0)  # of all processes: the others would only be refused, too
        self._part: Path | None = None

    def guard(self, part: Path) -> None:
        """Resume ``part``, a file that broke off, only with bytes of the same version.

        The version, a strong ETag or the date of the last change, is kept in a file for later runs, too. A server that
        names none sends the whole file again.
        """
        self._part, self._version = part, part.with_name("version")
        self.length_known = False  # until the server announces it

    def urlopen(self, request: str | Request) -> Response:
        """Send a request."""
        request = Request(request) if isinstance(request, str) else request
        self._wait()
        if self._part and "Range" in request.headers:
            if self._version.exists():
                request.headers["If-Range"] = self._version.read_text(encoding="latin-1")
            else:
                del request.headers["Range"]
        try:
            response = super().urlopen(request)
        except HTTPError as error:
            if error.status == 416 and self._part:  # the part is the whole file, or no part of it
                self._version.unlink(missing_ok=True)
                del request.headers["If-Range"]
                return self.urlopen(request)
            if error.status in (429, 503):
                self._pause(error)
                raise TransportError(cause=error) from None  # yt-dlp retries after this one
            raise
        if self._part:
            self._begin(request, response)
        return response

    def _begin(self, request: Request, response: Response) -> None:
        headers = response.headers
        self.length_known = "Content-Length" in headers or "Transfer-Encoding" in headers
        if response.status == 206:
            wanted = request.headers.get("Range", "").replace("=", " ")
            if not (wanted and headers.get("Content-Range", "").startswith(wanted)):
                raise TransportError("the server sent another part of the file than requested")
            return
        assert self._part is not None
        version = headers.get("ETag", "")
        if not version or version.startswith("W/"):  # a weak one may stand for other bytes
            version = headers.get("Last-Modified", "")
        self._version.unlink(missing_ok=True)
        self._part.unlink(missing_ok=True)
        if version:
            self._version.write_text(version, encoding="latin-1")

    def _wait(self) -> None:
        if self._next_request is None:  # processes start together, but do not ask together
            self._next_request = time.monotonic() + random.SystemRandom().uniform(0, self._interval)
        while (wait := max(self._next_request, self._paused_until.value) - time.monotonic()) > 0:
            time.sleep(wait)
        self._next_request = time.monotonic() + self._interval

    def _pause(self, error: HTTPError) -> None:
        """Let all processes wait as long as the server asks for: seconds, or a date."""
        value = error.response.headers.get("Retry-After", "").strip()
        try:
            wait = (
                float(value) if value.isdigit() else email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            )
        except ValueError:
            return
        if wait > _LONGEST_PAUSE:
            raise UserError(f"{error}: the server asks to wait {wait:.0f} s; run the command again then") from None
        self._paused_until.value = max(self._paused_until.value, time.monotonic() + wait)
