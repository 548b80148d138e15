"""Check uploaded clips."""

from __future__ import annotations

from pathlib import Path

import gradio

from octvideo.app.markup import problem
from octvideo.data.decoders.decode import DecodeError, open_video
from octvideo.data.media import is_image
from octvideo.errors import UserError, one_line, reason_of
from octvideo.files import first_bytes, foreign_content

__all__ = ["LIMITS", "MAX_BYTES", "check_on_upload", "check_upload", "message"]

MAX_BYTES = 2 << 30
_MAX_FRAMES = 9000
_MAX_SIDE = 4096  # pixels; limit of H.264 players too
LIMITS = "Up to 2 GB, 9,000 frames (5 minutes at 30 frames a second) and 4096 pixels a side."
_OTHERWISE = "shorten it, or use octvideo predict, which has no limit"


def check_on_upload(clip: gradio.Video, shown: gradio.HTML) -> None:
    """Check every clip as soon as it is uploaded. ``shown`` gets the message, or becomes empty."""

    def check(path: str) -> str:
        try:
            check_upload(Path(path))
        except (OSError, UserError) as error:
            return problem(message(error, path))
        return ""

    clip.upload(check, clip, shown, api_visibility="private", show_progress="hidden")


def message(error: Exception, path: str) -> str:
    """Return the message of an error without the folder of the upload."""
    return one_line(error).replace(path, Path(path).name)


def check_upload(path: Path) -> None:
    """Check that a file is a video within the limits.

    Raises:
        UserError: it is a picture, cannot be decoded, or is beyond a limit; the message has no folder.
    """
    name = path.name
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{name}: larger than 2 GB; {_OTHERWISE}")
    if _is_picture(path):
        raise UserError(f"{name}: a picture, even if it moves; choose a video, such as .mp4")
    try:
        with open_video(str(path)) as video:
            frames, fps = len(video), video.fps
            if frames > _MAX_FRAMES:
                raise UserError(
                    f"{name}: {frames:,} frames ({_duration(frames / fps)}) are too long, at most {_MAX_FRAMES:,} "
                    f"are possible here; {_OTHERWISE}"
                )
            height, width = video.frames([0]).shape[1:3]
    except DecodeError as error:
        reason = foreign_content(path) or reason_of(error.__cause__ or error)
        raise UserError(f"{name}: cannot be decoded ({reason}); choose another video") from None
    if max(height, width) > _MAX_SIDE:
        raise UserError(f"{name}: {width} x {height} pixels are too large; scale it to at most {_MAX_SIDE} a side")


def _is_picture(path: Path) -> bool:
    start = first_bytes(path)
    content = start.startswith((b"GIF8", b"\x89PNG")) or (start[:4], start[8:12]) == (b"RIFF", b"WEBP")
    return content or is_image(path.name)


def _duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
