"""Download a file over HTTP, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from octvideo.errors import UserError, one_line
from octvideo.files import atomic_write

__all__ = ["download"]

_TIMEOUT = 60  # seconds without data
_CHUNK = 1 << 20  # bytes


def download(address: str, target: Path, sha256: str = "") -> None:
    """Download a file, with a progress bar on a terminal. After an error nothing is left.

    Not ``torch.hub.download_url_to_file``, which keeps a file that was cut short and has no time-out.

    Args:
        address: http or https; blanks and letters outside ASCII may be unquoted.
        target: the file; its folders are created.
        sha256: the first digits of its hash, where known.

    Raises:
        UserError: the address is wrong, the server fails or sends nothing for 60 seconds, the file is cut short, has
            another hash or cannot be written, or the address is of a live stream, which has no end.
    """
    digest = hashlib.sha256()
    with atomic_write(target, parents=True) as partial:
        with partial.open("wb") as file:
            for chunk in _chunks(address, target.name):
                file.write(chunk)
                digest.update(chunk)
        if not digest.hexdigest().startswith(sha256):
            raise UserError(f"{address}: the SHA-256 is {digest.hexdigest()}, not {sha256}...: not the published file")


def _chunks(address: str, title: str) -> Iterator[bytes]:
    quoted = urllib.parse.quote(address, safe="!#$%&'()*+,/:;=?@[]~")  # what is quoted already stays
    try:
        with urllib.request.urlopen(quoted, timeout=_TIMEOUT) as response:
            if response.headers.get_content_type() == "multipart/x-mixed-replace":
                raise UserError(f"{address}: a live stream has no end; give it as --webcam {address}")
            length = response.headers.get("Content-Length", "")
            total, size = int(length) if length.isdecimal() else None, 0
            on_terminal = sys.stderr.isatty()
            with tqdm(total=total, unit="B", unit_scale=True, desc=title, disable=not on_terminal) as bar:
                while chunk := response.read(_CHUNK):
                    size += len(chunk)
                    bar.update(len(chunk))
                    yield chunk
            if total is not None and size < total:
                raise UserError(f"{address}: the download ended after {size} of {total} bytes; try again")
    except urllib.error.HTTPError as error:
        raise UserError(f"{address}: cannot be downloaded (HTTP {error.code}); check the address") from None
    except (OSError, ValueError, http.client.HTTPException) as error:  # a URLError is an OSError
        reason = getattr(error, "reason", error)
        text = one_line(reason) if isinstance(reason, BaseException) else reason
        raise UserError(f"{address}: cannot be downloaded ({text})") from None
