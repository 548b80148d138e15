"""Where the videos are: addresses made from a template, and files of a local mirror."""

from __future__ import annotations

import errno
import os
import shutil
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

from octvideo.data.annotations import Segment, clip_name
from octvideo.errors import UserError
from octvideo.files import writing

__all__ = ["DISK_ERRORS", "LocalFiles", "NotFetched", "Source", "check_template", "fill"]

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # every other clip would fail, too

_FIELDS = ("youtube_id", "start", "end", "label", "split", "name")


class NotFetched(Exception):
    """A source has no file for a segment.

    Attributes:
        status: gone, private, or failed: then another attempt may succeed.
        reason: one line.
    """

    def __init__(self, status: str, reason: str) -> None:
        self.status, self.reason = status, " ".join(reason.split())[:300]
        super().__init__(self.status, self.reason)


class Source(Protocol):
    """Where videos come from.

    Attributes:
        attempts: how often the last call of ``fetch`` tried.
    """

    attempts: int

    def fetch(self, segment: Segment, folder: Path) -> Path:
        """Return the file of a segment, in ``folder`` or elsewhere. What an earlier call left in ``folder`` may help.

        Raises:
            NotFetched: there is none.
            UserError: ``folder`` cannot be written.
        """


def check_template(template: str, segments: Sequence[Segment]) -> None:
    """Raise UserError if a template cannot be filled for these segments."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if unknown := names - set(_FIELDS):
            raise ValueError(f"unknown field {{{sorted(unknown)[0]}}}; the fields are {', '.join(_FIELDS)}")
        fill(template, segments[0], quoted=False)
    except ValueError as error:
        raise UserError(f"--url-template {template}: {error}") from None
    if "label" in names and segments[0].label is None:
        raise UserError(f"--url-template {template}: has {{label}}, but the annotations have no labels; remove it")


def fill(template: str, segment: Segment, *, quoted: bool) -> str:
    """Fill a template for a segment; ``{start}`` and ``{end}`` are whole seconds, ``{start:06d}`` has six digits.

    >>> fill("/k400/{label}/{youtube_id}_{start:06d}.mp4", Segment("air drumming", "-x", 4.0, 14.0, "val"), quoted=True)
    '/k400/air%20drumming/-x_000004.mp4'
    """
    label = quote(segment.label or "", safe="") if quoted else segment.label
    start, end, name = int(segment.start), int(segment.end), clip_name(segment)
    return template.format(
        youtube_id=segment.youtube_id, start=start, end=end, label=label, split=segment.split, name=name
    )


class LocalFiles:
    """Files of a local mirror.

    Args:
        template: a path or a ``file://`` address, see ``fill``.
        in_place: ``fetch`` returns the mirror's own file instead of a copy.

    Raises:
        UserError: the folder that the template begins with does not exist.
    """

    attempts = 1

    def __init__(self, template: str, *, in_place: bool) -> None:
        if template.startswith("file://"):
            template = unquote(urlsplit(template).path)
        self._template, self._in_place = template, in_place
        folder = os.path.dirname(template.split("{")[0]) or "."
        if not os.path.isdir(folder):
            raise UserError(f"--url-template {template}: no such folder {folder}; is the mirror mounted?")

    def fetch(self, segment: Segment, folder: Path) -> Path:
        """See ``Source``."""
        path, copy = Path(fill(self._template, segment, quoted=False)), folder / "video.mp4"
        try:
            if self._in_place:
                path.open("rb").close()
                return path
            shutil.copyfile(path, copy)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFetched("gone", f"{path}: no such file") from None
        except IsADirectoryError:
            raise NotFetched("gone", f"{path}: is a folder") from None
        except PermissionError:
            raise NotFetched("private", f"{path}: no permission to read it") from None
        except OSError as error:
            if error.errno in DISK_ERRORS:
                with writing(copy):
                    raise
            raise NotFetched("failed", f"{path}: {error.strerror or error}") from None
        return copy
