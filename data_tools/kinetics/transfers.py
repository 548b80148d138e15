"""Whole files from a web server or a local mirror, resumed where that is safe."""

from __future__ import annotations

import email.utils
import errno
import os
import string
import time
from http.cookiejar import LoadError, MozillaCookieJar
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx

from data_tools.kinetics.media import MediaError, check_video
from data_tools.kinetics.pace import Gone, Pacer, Private, Transient
from octvideo.data.annotations import Segment, clip_name
from octvideo.errors import UserError
from octvideo.files import writing

__all__ = ["LocalFiles", "WebFiles", "check_template", "fill"]

_FIELDS = ("youtube_id", "start", "end", "label", "split", "name")
_CHUNK = 1 << 16


def check_template(template: str, segments: list[Segment]) -> None:
    """Raises UserError where a template cannot be filled for these segments."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if unknown := names - set(_FIELDS):
            raise ValueError(f"unknown field {{{sorted(unknown)[0]}}}; there are {', '.join(_FIELDS)}")
        for segment in segments[:1]:
            fill(template, segment, quoted=False)
    except ValueError as error:
        raise UserError(f"--url-template {template}: {error}") from None
    if "label" in names and segments and segments[0].label is None:
        raise UserError(f"--url-template {template}: has {{label}}, but the annotations have no labels; take it out")


def fill(template: str, segment: Segment, *, quoted: bool) -> str:
    """A template's address of a segment; ``{start}`` and ``{end}`` are whole seconds, ``{start:06d}`` has six digits.

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
        pacer: limits bytes a second.
        in_place: the source itself is given, not a copy: it is going to be cut.

    Raises:
        UserError: the folder that the template begins with is not there.
    """

    def __init__(self, template: str, pacer: Pacer, *, in_place: bool) -> None:
        if template.startswith("file://"):
            template = unquote(urlsplit(template).path)
        self._template, self._pacer, self._in_place = template, pacer, in_place
        folder = os.path.dirname(template.split("{")[0]) or "."
        if not os.path.isdir(folder):
            raise UserError(f"--url-template {template}: there is no folder {folder}; is the mirror mounted?")

    def fetch(self, segment: Segment, partial: Path) -> Path:
        """The file, copied to ``partial`` or where it is.

        Raises:
            Gone, Private, Transient: it is not there, may not be read, or reading failed.
        """
        path = Path(fill(self._template, segment, quoted=False))
        try:
            with path.open("rb") as source:
                if self._in_place:
                    return path
                with writing(partial):
                    target = partial.open("wb")
                with target:
                    while data := source.read(_CHUNK):
                        self._pacer.spend(len(data))
                        with writing(partial):
                            target.write(data)
        except (FileNotFoundError, NotADirectoryError):
            raise Gone(f"no such file: {path}") from None
        except IsADirectoryError:
            raise Gone(f"a folder: {path}") from None
        except PermissionError:
            raise Private(f"may not be read: {path}") from None
        except OSError as error:
            raise Transient(f"{path}: {error.strerror or errno.errorcode.get(error.errno or 0)}") from None
        return partial


class WebFiles:
    """Files of an HTTP server.

    A transfer that broke off is resumed if the server says which version of the file it has (a strong ETag, or the date
    of its last change) and can send parts: `If-Range` then keeps parts of two versions from being put together. The
    version is kept beside the part, in ``NAME.version``, also for a later run.

    Args:
        template: an address, see ``fill``.
        pacer: limits requests and bytes a second.
        connections: at once.
        cookies: a file in Netscape format.
        timeout: seconds without an answer or without data.
    """

    def __init__(
        self, template: str, pacer: Pacer, *, connections: int, cookies: Path | None = None, timeout: float = 60.0
    ) -> None:
        self._template, self._pacer = template, pacer
        self._client = httpx.Client(
            follow_redirects=True,
            cookies=_read_cookies(cookies) if cookies else None,
            timeout=httpx.Timeout(timeout, connect=min(timeout, 20.0), pool=None),
            limits=httpx.Limits(max_connections=connections),
            # Compressed answers have other lengths and parts than the file.
            headers={"Accept-Encoding": "identity", "User-Agent": "octvideo kinetics_download"},
        )

    def fetch(self, segment: Segment, partial: Path) -> Path:
        """Downloads to ``partial``, or goes on with what is there.

        Raises:
            Gone: 404 or 410.
            Private: 401 or 403.
            Transient: everything else; what has come stays for the next attempt.
        """
        url = fill(self._template, segment, quoted=True)
        version_file = partial.with_name(f"{partial.name}.version")
        headers = {}
        offset = partial.stat().st_size if partial.exists() and version_file.exists() else 0
        if offset:
            headers = {"Range": f"bytes={offset}-", "If-Range": version_file.read_text(encoding="latin-1")}
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                if response.status_code == 416 and response.headers.get("Content-Range") == f"bytes */{offset}":
                    return partial  # all of it had come
                self._check(response)
                if not _goes_on_at(response, offset):
                    offset = 0
                self._receive(response, partial, version_file, offset)
        except httpx.InvalidURL as error:
            raise UserError(f"--url-template: {url} is not an address ({error})") from None
        except httpx.HTTPError as error:
            raise Transient(f"{error or type(error).__name__}") from None
        return partial

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        reason = f"HTTP {status} {response.reason_phrase}".strip()
        if status in (404, 410):
            raise Gone(reason)
        if status in (401, 403):
            raise Private(reason)
        if status not in (200, 206):
            wait = _retry_after(response.headers.get("Retry-After", "")) if status in (429, 503) else 0.0
            raise Transient(reason, wait)

    def _receive(self, response: httpx.Response, partial: Path, version_file: Path, offset: int) -> None:
        version = response.headers.get("ETag", "")
        if not version or version.startswith("W/"):  # a weak one may stand for other bytes
            version = response.headers.get("Last-Modified", "")
        with writing(partial):
            if not offset:
                version_file.unlink(missing_ok=True)
            target = partial.open("ab" if offset else "wb")
            if version:
                version_file.write_text(version, encoding="latin-1")
        received = 0
        try:
            for data in response.iter_raw():  # as it comes: what was not written is lost when it breaks off
                with writing(partial):
                    target.write(data)
                    target.flush()  # a kill loses what Python holds back, 128 KiB since 3.14
                received += len(data)
                self._pacer.spend(len(data))
        finally:
            with writing(partial):  # what is left to write may fail again
                target.close()
        length = response.headers.get("Content-Length")
        if length is not None and received != int(length):
            raise Transient(f"{received} of {length} bytes came")
        if length is None and "Transfer-Encoding" not in response.headers:
            try:  # it ended when the connection did, wherever that was
                check_video(partial, whole=True)
            except MediaError as error:
                raise Transient(str(error)) from None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


def _goes_on_at(response: httpx.Response, offset: int) -> bool:
    """Whether the answer is the part asked for, and not the whole file."""
    if response.status_code != 206:
        return False
    if not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        raise Transient("the server sent another part than the one asked for")
    return True


def _retry_after(value: str) -> float:
    """Seconds, from seconds or a date; 0 where it is neither."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _read_cookies(file: Path) -> MozillaCookieJar:
    jar = MozillaCookieJar(str(file))
    try:
        jar.load(ignore_discard=True, ignore_expires=True)
    except (OSError, LoadError) as error:
        raise UserError(f"--cookies {file}: {getattr(error, 'strerror', None) or error}") from None
    return jar
