"""Read and write list files: one ``path label`` per line, in any of the usual styles."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from octvideo.data.classes import begin_at_one, did_you_mean, is_number, nfc, number_places
from octvideo.data.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_media
from octvideo.errors import UserError
from octvideo.files import atomic_write

__all__ = [
    "format_row",
    "is_comment",
    "names_in",
    "read_rows",
    "write_lines",
]

_MAX_CLASSES = 100_000  # without class names: a larger number is not a label but, say, a time

# Matches nearly all lines at once: ASCII, no quotes, no comma in the path, a known suffix. Other lines, and lines with
# an unexpected label, are parsed in Python.
_PLAIN = re.compile(
    rb'([^\s\0",#\x80-\xff][^\0\t-\r",\x80-\xff]*(?:%s))(?:[ \t,]([^\t-\r",\x80-\xff]+?))?\s*'
    % b"|".join(re.escape(suffix.encode()) for suffix in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES)),
    re.IGNORECASE,
)
_QUOTED_PATH = re.compile(r'"((?:[^"]|"")*)"(?:[\s,]+(.*))?', re.DOTALL)
_QUOTED_LABEL = re.compile(r'(.*?)[\s,]+("(?:[^"]|"")*")', re.DOTALL)
_NUMBER_BEHIND = re.compile(r".*[\s,]\d+", re.DOTALL)
_NUMBERS = re.compile(r"[\s,.\d+-]*\d[\s,.\d]*")  # one or several, also such as -1 and 0.5
_SUFFIXED_PATH = re.compile(
    rf"(.*(?:{'|'.join(re.escape(suffix) for suffix in sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))}))[\s,]+(.*)",
    re.IGNORECASE | re.DOTALL,
)


class _Labels:
    """Translate a label, a number or a name, to its class number; None if it is unknown.

    Raises:
        ValueError: an ambiguous number.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self.places = number_places(classes)
        self.names = {nfc(name): number for number, name in enumerate(classes) if not is_number(name)}
        self.limit = len(classes) or _MAX_CLASSES

    def plain(self) -> dict[bytes | None, int]:
        """Return the usual labels, as bytes in the file."""
        expected: dict[bytes | None, int] = {name.encode(): number for name, number in self.names.items()}
        places = self.places if self.classes else dict(zip(range(10_000), range(10_000)))
        expected |= {str(number).encode(): place for number, place in places.items()}
        expected[None] = -1
        return expected

    def __call__(self, text: str) -> int | None:
        text = _unquoted(text)
        if not is_number(text):
            return self.names.get(nfc(text))
        number = int(text)
        if not self.classes or number in self.places:
            return self.places.get(number, number)
        if not self.names:
            raise ValueError(f"label {number} is not one of the classes {', '.join(self.classes[:4])}, ...")
        if number < len(self.classes):
            raise ValueError(
                f"label {number} is ambiguous: a class has this name, and class number {number} is "
                f"{self.classes[number]!r}; give the classes names that are not numbers"
            )
        return number


def read_rows(
    file: Path, classes: Sequence[str] = (), *, root: Path | None = None, origin: str = "DATA.CLASSES"
) -> Iterator[tuple[bytes, int]]:
    """Yield the path (UTF-8) and the label of each line, in order; -1 if the list has no labels.

    A comma, a tab or a blank separates the two. The last one counts, so paths may have blanks. Quotes around a path are
    removed (``""`` stands for a quote in it). A label is a number or a name in ``classes``. ``#`` starts a comment, see
    ``is_comment`` ::

        clips/a b.mp4 3               clips/a b.mp4, 3
        "a, ""b"".mp4",3              a, "b".mp4, 3
        a.mp4 riding a bike           a.mp4, the number of `riding a bike`

    Args:
        file: the list.
        classes: names by class number; () if labels are numbers.
        root: folder of relative paths; None is the list's own.
        origin: where the names come from, for messages.

    Raises:
        UserError: a malformed line, with its number.
    """
    labels = _Labels(classes)
    labelled: bool | None = None
    for line_number, path, label in _rows(file, labels, root, origin):
        if label >= labels.limit:
            raise UserError(f"{file}:{line_number}: {_beyond(file, labels, label, root, origin)}")
        if labelled is None:
            labelled = label >= 0
        elif labelled != (label >= 0):
            raise UserError(f"{file}:{line_number}: some lines have a label and some do not; expected `path label`")
        yield path, label


def _rows(file: Path, labels: _Labels, root: Path | None, origin: str) -> Iterator[tuple[int, bytes, int]]:
    expected = labels.plain()
    plain = _PLAIN.fullmatch
    first = True
    for line_number, line in _lines(file):
        match = plain(line)
        if match and match[2] in expected:
            yield line_number, match[1], expected[match[2]]
        elif text := _text(file, line_number, line, root):
            try:
                path, label = _split(text, labels)
                if not path:
                    raise ValueError(f"no path in {text!r}")
            except ValueError as error:
                reason = _header(text) if first else None
                reason = reason or _unknown(text, labels.classes, origin) or f"{error}; expected `path label`"
                raise UserError(f"{file}:{line_number}: {reason}") from None
            yield line_number, path.encode(), label
        else:
            continue
        first = False


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    with file.open("rb") as stream:
        if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            stream.seek(0)
        for line_number, line in enumerate(stream, 1):
            if not line.endswith(b"\n") and line_number == 1:  # perhaps line ends of old Macs
                yield from enumerate(line.split(b"\r"), 1)
            else:
                yield line_number, line


def is_comment(text: str, root: Path) -> bool:
    """Tell whether a line is a comment: it begins with ``#``, and there is no such video below the folder ``root``."""
    if not text.startswith("#"):
        return False
    found = _SUFFIXED_PATH.fullmatch(text)
    path = found[1] if found else text.strip()
    return not (is_media(path) and (root / path).exists())


def _text(file: Path, line_number: int, line: bytes, root: Path | None) -> str:
    """Decode a line; "" for an empty line or a comment."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        raise UserError(f"{file}:{line_number}: not UTF-8 text; convert it, e.g. with iconv") from None
    if "\0" in text:
        raise UserError(
            f"{file}:{line_number}: it has a null character: not a text file, or UTF-16; expected `path label`"
        )
    return "" if is_comment(text, root or file.parent) else text.strip()


def _beyond(file: Path, labels: _Labels, label: int, root: Path | None, origin: str) -> str:
    reason = f"label {label} is not below the number of classes, {labels.limit}"
    if not labels.classes:
        return reason
    everything = np.fromiter((number for _, _, number in _rows(file, labels, root, origin)), dtype=np.int64)
    if begin_at_one(everything, labels.limit):
        return f"{reason}: labels seem to begin at 1 (there is no label 0); subtract 1 from each"
    return f"{reason}; classes come from {origin}"


def names_in(file: Path, root: Path | None = None) -> list[str]:
    """Return the sorted class names that a list uses as labels; [] if it has numbers or no labels.

    The first line decides, so a list of numbers is not read further. In a list with names each path needs the suffix
    of a video or an image, or quotes, since paths and names may both have blanks.

    Raises:
        UserError: a header, a number among names, or names that differ only in capitals; with the line number.
    """
    spellings: dict[bytes | None, None] = {}  # as in the file
    names: dict[str, tuple[str, int]] = {}  # by the name without capitals: the name, and its first line
    for line_number, line in _lines(file):
        match = _PLAIN.fullmatch(line)
        if match and match[2] in spellings:
            continue
        text = _text(file, line_number, line, root)
        if not text:
            continue
        try:
            name = _name(text, first=not names)
        except ValueError as error:
            raise UserError(f"{file}:{line_number}: {error}") from None
        if name is None:
            return []
        known, first_line = names.setdefault(name.casefold(), (name, line_number))
        if name != known:
            raise UserError(
                f'{file}:{line_number}: class "{name}" differs from "{known}" in line {first_line} only in capitals; '
                "write them alike, or give the names in a file (DATA.CLASSES)"
            )
        if match:
            spellings[match[2]] = None
    return sorted(name for name, _ in names.values())


def _name(text: str, *, first: bool) -> str | None:
    """Return the class name at the end of a line; None if the first line has a number or no label.

    Raises:
        ValueError: the line does not belong in a list with class names.
    """
    found = _QUOTED_PATH.fullmatch(text) or _SUFFIXED_PATH.fullmatch(text)
    if found is None and not is_media(text):
        if first and _NUMBER_BEHIND.fullmatch(text):
            return None
        raise ValueError(
            (_header(text) if first else None)
            or f"{text!r}: cannot tell where the path ends; separate path and label by a comma, a tab or a blank, "
            "and quote a path without the suffix of a video or an image"
        )
    label = ((found and found[2]) or "").strip()
    if not label or _NUMBERS.fullmatch(label):
        if first:
            return None
        what = f"the label {label}" if label else "no label"
        raise ValueError(f"{what}, but the lines before have class names; expected `path name`")
    if label[0] != '"' and ("," in label or "\t" in label):
        raise ValueError(
            f'label "{label}" has a comma or a tab: a line has a path and one label; quote the name if it has one'
        )
    return nfc(_unquoted(label))


def _header(text: str) -> str | None:
    """Return what is wrong with the first line if it names columns; None otherwise."""
    if is_media(text) or _SUFFIXED_PATH.fullmatch(text) or _NUMBER_BEHIND.fullmatch(text) or text[0] == '"':
        return None
    if not re.search(r"[\s,]", text):
        return None
    return f'"{text}" looks like a header: remove this line; expected `path label`'


def _unknown(text: str, classes: Sequence[str], origin: str) -> str | None:
    """Return what is wrong with a line that has a path and an unknown class; None otherwise."""
    found = _QUOTED_PATH.fullmatch(text) or _SUFFIXED_PATH.fullmatch(text)
    label = _unquoted(found[2] or "") if found else ""
    if not classes or not label or _NUMBERS.fullmatch(label):
        return None
    hint = did_you_mean(nfc(label), classes)
    return f'unknown class "{label}"{hint}{"" if hint else "."} Classes come from {origin}'


def _split(text: str, labels: _Labels) -> tuple[str, int]:
    """Split a line into path and label; -1 if it has no label.

    Raises:
        ValueError: neither a number nor a class name follows the path, or several numbers do.
    """
    if quoted := _QUOTED_PATH.fullmatch(text):
        path, rest = quoted[1].replace('""', '"'), quoted[2]
        label = labels(rest) if rest else -1
        if label is not None:
            return path, label
    for path, rest in _cuts(text):
        label = labels(rest)
        if label is None:
            continue
        if not is_media(path) and _NUMBER_BEHIND.fullmatch(path):
            raise ValueError(
                f"{text!r} has several numbers after the path: a video has one label. A folder of frames is a video: "
                "write `folder label`, without the number of frames, and quote a folder that ends in a number"
            )
        if not is_media(path) and _SUFFIXED_PATH.fullmatch(text):
            raise ValueError(f"{text!r} has more than one label after the path")
        return path, label
    if not is_media(text):
        raise ValueError(
            f"{text!r} ends in neither a class number, nor a class name, nor the suffix of a video or an image"
        )
    return text, -1


def _cuts(text: str) -> Iterator[tuple[str, str]]:
    """Yield the possible splits into path and label, the likeliest first."""
    if quoted := _QUOTED_LABEL.fullmatch(text):
        yield quoted[1], quoted[2]
    for separator in ",\t":
        path, found, rest = text.rpartition(separator)
        if found:
            yield path.strip(), rest
    # A class name may have blanks, and its last word may be another class: suffixes decide.
    blanks = [place for place, letter in enumerate(text) if letter in " \t"]
    cuts = [(text[:place].strip(), text[place:]) for place in reversed(blanks)]
    yield from (cut for cut in cuts if is_media(cut[0]))
    yield from cuts


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('""', '"')
    return text


def format_row(path: str, label: int = -1) -> str:
    """Format a line for ``read_rows``: ``path,label``, quoted only if necessary.

    Raises:
        UserError: the path has a line break, or is not Unicode.
    """
    if "\n" in path or not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
        raise UserError(f"{path!r}: a list cannot hold a name with a line break or not in UTF-8; rename the file")
    if any(letter in path for letter in ',"#') or path != path.strip() or not is_media(path):
        path = '"' + path.replace('"', '""') + '"'
    return path if label < 0 else f"{path},{label}"


def write_lines(file: Path, lines: Iterable[str]) -> None:
    """Write a text file atomically.

    Raises:
        UserError: it cannot be written.
    """
    with atomic_write(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)
