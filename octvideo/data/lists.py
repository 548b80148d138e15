"""List files: one video or image a line, ``path label``; read in any of the usual styles, written to be read."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from octvideo.errors import UserError
from octvideo.files import whole_file

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "format_row",
    "is_image",
    "is_sample",
    "is_video",
    "read_rows",
    "write_lines",
]

VIDEO_SUFFIXES = frozenset(".mp4 .avi .mkv .mov .webm .mpg .mpeg .m4v .flv .wmv .ts .3gp".split())
IMAGE_SUFFIXES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff".split())

_MAX_CLASSES = 100_000  # where no names say how many there are: a larger number is no label but, say, a time

# What nearly all lines are, in one match: ASCII, nothing quoted, no comma in the path, which has a known suffix. Any
# other line, or one with another label than the expected, is taken apart in Python.
_PLAIN = re.compile(
    rb'([^\s\0",#\x80-\xff][^\0\t-\r",\x80-\xff]*(?:%s))(?:[ \t,]([^\t-\r",\x80-\xff]+?))?\s*'
    % b"|".join(re.escape(suffix.encode()) for suffix in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES)),
    re.IGNORECASE,
)
_QUOTED_PATH = re.compile(r'"((?:[^"]|"")*)"(?:[\s,]+(.*))?', re.DOTALL)
_QUOTED_LABEL = re.compile(r'(.*?)[\s,]+("(?:[^"]|"")*")', re.DOTALL)
_NUMBER_BEHIND = re.compile(r".*[\s,]\d+", re.DOTALL)


def is_video(name: str) -> bool:
    """Whether a file's name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_image(name: str) -> bool:
    """Whether a file's name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_sample(name: str) -> bool:
    """Whether a file's name has the suffix of a video or an image."""
    return is_video(name) or is_image(name)


def read_rows(file: Path, classes: Sequence[str] = ()) -> Iterator[tuple[bytes, int]]:
    """Path (UTF-8) and label (-1 where the list has none) of each line, in order; nothing else is kept.

    Comma, tab or blank separate the two, the last one counts, so that paths may have blanks; quotes around the path
    (and ``""`` for a quote in it) are taken off. A label is a number or a name in ``classes``. ``#`` starts a comment
    line ::

        clips/a b.mp4 3               clips/a b.mp4, 3
        "a, ""b"".mp4",3              a, "b".mp4, 3
        a.mp4 riding a bike           a.mp4, the number of `riding a bike`

    Raises:
        UserError: a malformed line, with its number.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    limit = len(classes) or _MAX_CLASSES
    expected: dict[bytes | None, int] = {name.encode(): number for name, number in numbers.items()}
    expected |= {str(number).encode(): number for number in range(len(classes) or 10_000)}
    expected[None] = -1
    labelled: bool | None = None
    plain = _PLAIN.fullmatch
    with file.open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            stream.seek(0)
        for line_number, line in enumerate(stream, 1):
            match = plain(line)
            if match and match[2] in expected:
                path, label = match[1], expected[match[2]]
            else:
                try:
                    row = _parse(line.decode(), numbers)
                except UnicodeDecodeError:
                    raise UserError(f"{file}:{line_number}: not UTF-8 text; convert it, e.g. with iconv") from None
                except ValueError as error:
                    raise UserError(f"{file}:{line_number}: {error}; expected `path label`") from None
                if row is None:
                    continue
                path, label = row
            if label >= limit:
                raise UserError(f"{file}:{line_number}: label {label} is not below the number of classes, {limit}")
            if labelled is None:
                labelled = label >= 0
            elif labelled != (label >= 0):
                raise UserError(
                    f"{file}:{line_number}: some lines have a label and some have none; expected `path label`"
                )
            yield path, label


def _parse(line: str, numbers: Mapping[str, int]) -> tuple[bytes, int] | None:
    text = line.strip()
    if "\0" in text:
        raise ValueError("a null character in it: no text file, or one in UTF-16")
    if not text or line.startswith("#"):
        return None
    path, label = _split(text, numbers)
    if not path:
        raise ValueError(f"no path in {text!r}")
    return path.encode(), label


def _split(text: str, numbers: Mapping[str, int]) -> tuple[str, int]:
    """Path and label; -1 where there is no label.

    Raises:
        ValueError: what stands behind the path is neither a number nor a class name, or there are several numbers.
    """
    if quoted := _QUOTED_PATH.fullmatch(text):
        path, rest = quoted[1].replace('""', '"'), quoted[2]
        label = _label(rest, numbers) if rest else -1
        if label is not None:
            return path, label
    for path, rest in _cuts(text):
        label = _label(rest, numbers)
        if label is None:
            continue
        if not is_sample(path) and _NUMBER_BEHIND.fullmatch(path):
            raise ValueError(
                f"{text!r} has several numbers behind the path: folders of frames (`folder total_frames label`, "
                "rawframes) and several labels a video are not supported"
            )
        return path, label
    if not is_sample(text):
        raise ValueError(
            f"{text!r} ends in neither a class number, nor a class name, nor the suffix of a video or an image"
        )
    return text, -1


def _cuts(text: str) -> Iterator[tuple[str, str]]:
    """Where a path may end and a label begin, the likeliest first."""
    if quoted := _QUOTED_LABEL.fullmatch(text):
        yield quoted[1], quoted[2]
    for separator in ",\t":
        path, found, rest = text.rpartition(separator)
        if found:
            yield path.strip(), rest
    # A class name may have blanks, and its last word may be the name of another class: suffixes tell.
    blanks = [place for place, letter in enumerate(text) if letter in " \t"]
    cuts = [(text[:place].strip(), text[place:]) for place in reversed(blanks)]
    yield from (cut for cut in cuts if is_sample(cut[0]))
    yield from cuts


def _label(text: str, numbers: Mapping[str, int]) -> int | None:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"')
    return int(text) if text.isascii() and text.isdigit() else numbers.get(text)


def format_row(path: str, label: int = -1) -> str:
    """A line that ``read_rows`` reads as this path and label: ``path,label``, quoted only where it must be.

    Raises:
        UserError: the path has a line break, or is not Unicode.
    """
    if "\n" in path or not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
        raise UserError(f"{path!r}: a list cannot hold a name with a line break or of another encoding; rename it")
    if any(letter in path for letter in ',"#') or path != path.strip() or not is_sample(path):
        path = '"' + path.replace('"', '""') + '"'
    return path if label < 0 else f"{path},{label}"


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Writes a text file, which gets its name when it is whole and on the disk.

    Raises:
        UserError: it cannot be written.
    """
    with whole_file(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)
