"""Sections of online videos, downloaded and cut by the yt-dlp program."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_tools.kinetics.jobs import Stopped
from data_tools.kinetics.pace import Gone, Pacer, Private, Transient
from data_tools.kinetics.transfers import fill
from octvideo.data.annotations import Segment
from octvideo.errors import UserError
from octvideo.files import writing

__all__ = ["YouTube", "classify"]

# An address, as ids that begin with `-` would be taken for options.
PAGE = "https://www.youtube.com/watch?v={youtube_id}"
_LONGEST = 1800.0  # seconds for one section; a live stream would never end

# What yt-dlp says, in the order in which it is looked for. The first two are about us, not about the video.
_SAYS: tuple[tuple[str, type[Exception]], ...] = (
    (r"not a bot|HTTP Error 429|rate-limited|too many requests", Transient),
    (r"HTTP Error 403", Transient),  # YouTube's way to refuse for a while
    (r"private video|video is private|members.only|join this channel|confirm your age|age.restricted", Private),
    (r"HTTP Error 401|login required|requires payment|not made this video available in your country", Private),
    (r"not available in your (country|location)|geo.?restrict", Private),
    (r"HTTP Error (404|410)|removed|terminated|no longer available|video unavailable|video is not available", Gone),
    (r"does not exist|incomplete youtube id", Gone),
)


def classify(message: str) -> Exception:
    """The error that yt-dlp's last words stand for: Gone, Private, or Transient."""
    lines = [line for line in message.splitlines() if line.startswith("ERROR")] or message.splitlines() or ["no reason"]
    reason = " ".join(lines[-1].removeprefix("ERROR:").split())[:300]
    for pattern, kind in _SAYS:
        if re.search(pattern, message, re.IGNORECASE):
            return kind(reason)
    return Transient(reason)


class YouTube:
    """Calls yt-dlp for every section.

    Args:
        template: the address of a video's page, see ``fill``.
        pacer: limits calls a second.
        cookies: a file in Netscape format.
        more: further arguments of yt-dlp.

    Raises:
        UserError: yt-dlp or ffmpeg, which cuts, is not installed.
    """

    def __init__(self, template: str, pacer: Pacer, *, cookies: Path | None = None, more: Sequence[str] = ()) -> None:
        self._template, self._pacer, self._cookies, self._more = template, pacer, cookies, more
        if importlib.util.find_spec("yt_dlp"):
            self._program = [sys.executable, "-m", "yt_dlp"]
        elif found := shutil.which("yt-dlp"):
            self._program = [found]
        else:
            raise UserError("--yt-dlp: yt-dlp is not installed; pip install 'octvideo[kinetics]'")
        if not any("--ffmpeg-location" in word for word in more) and shutil.which("ffmpeg") is None:
            raise UserError(
                "--yt-dlp: there is no ffmpeg program, which cuts the videos; install it (apt install ffmpeg)"
            )
        if cookies is not None and not cookies.is_file():
            raise UserError(f"--cookies {cookies}: no such file")

    def fetch(self, segment: Segment, partial: Path) -> Path:
        """The section, as a file in the folder ``partial.d``.

        Raises:
            Gone, Private, Transient: as far as yt-dlp's message tells.
            Stopped: the run ends.
        """
        folder = partial.with_name(f"{partial.name}.d")
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)  # ffmpeg does not resume
            folder.mkdir(parents=True)
            if self._cookies is not None:  # a copy, as yt-dlp writes into it, and several would at once
                shutil.copy(self._cookies, folder / "cookies.txt")
        self._run(self._command(segment, folder), folder / "messages.txt")
        files = [path for path in folder.glob("clip.*") if path.suffix not in (".part", ".ytdl")]
        if len(files) != 1:
            raise Transient("yt-dlp ended without a file")
        return files[0]

    def _command(self, segment: Segment, folder: Path) -> list[str]:
        cookies = ["--cookies", str(folder / "cookies.txt")] if self._cookies is not None else []
        return [
            *self._program,
            *("--ignore-config", "--quiet", "--no-warnings", "--no-progress", "--no-playlist", "--no-mtime"),
            *("--retries", "0", "--extractor-retries", "0", "--socket-timeout", "30"),  # attempts are counted here
            *("--download-sections", f"*{segment.start:.3f}-{segment.end:.3f}", "--force-keyframes-at-cuts"),
            # No sound where it can be had so; 480 lines, or the nearest more; what needs least work to decode.
            *("--format", "bv/b", "--format-sort", "res:480,vcodec:h264", "--remux-video", "mp4"),
            *("--output", str(folder).replace("%", "%%") + "/clip.%(ext)s"),
            *cookies,
            *self._more,
            *("--", fill(self._template, segment, quoted=True)),
        ]

    def _run(self, command: list[str], messages: Path) -> None:
        with messages.open("w+", encoding="utf-8", errors="replace") as output:
            # A group of its own: Ctrl-C is the caller's to pass on, and ffmpeg ends with yt-dlp.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            deadline = time.monotonic() + _LONGEST
            try:
                while process.poll() is None:
                    self._pacer.sleep(0.1)
                    if time.monotonic() > deadline:
                        raise Transient(f"yt-dlp was not ready after {_LONGEST:.0f} s")
            except (Stopped, Transient):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            if process.returncode:
                output.seek(0)
                text = output.read()
                if "No space left on device" in text:
                    raise UserError(f"{messages.parent}: cannot be written (No space left on device); make room")
                raise classify(text)
