"""Find the videos that arguments name: files, URLs, globs and folders; and name a file of results for each."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from octvideo.data.index import read_index
from octvideo.data.media import frame_folders, frames_in, is_video, list_suffixes, passed_over_text, scan_folder
from octvideo.data.shards import is_sharded
from octvideo.errors import UserError
from octvideo.inference.sources import is_url

__all__ = ["Video", "find_videos", "is_list", "is_single", "output_files"]

_LISTS = (".csv", ".list", ".lst", ".tsv", ".txt")


class Video(NamedTuple):
    """A video to predict.

    Attributes:
        name: its path or URL.
        place: its path below the folder that was searched, or its file name: where its results go in a folder.
    """

    name: str
    place: Path


def is_single(name: str) -> bool:
    """Tell whether an argument names one video, not a list, a folder or a glob. A folder of frames is a video."""
    return is_url(name) or bool(frames_in(name)) or not (os.path.isdir(name) or _is_glob(name) or is_list(name))


def is_list(name: str) -> bool:
    """Tell whether an argument names a list of videos, see ``octvideo.data.lists``."""
    return os.path.splitext(name)[1].lower() in _LISTS and os.path.isfile(name)


def find_videos(
    name: str, without: Path | None = None, say: Callable[[str], object] = lambda _: None, root: str = ""
) -> list[Video]:
    """Return the videos of an argument: a file, a URL, a list, a folder to search, or a glob.

    A glob means the video files and folders that match it; ``**`` matches any number of folders.

    Args:
        name: the argument.
        without: a folder to leave out of searches, such as that of the results.
        say: called with a line about the files that are passed over.
        root: folder of the relative paths of a list; "" is the list's own.

    Raises:
        UserError: there is none.
    """
    if is_url(name):
        return [Video(name, Path(Path(unquote(urlsplit(name).path)).name or "video"))]
    if frames_in(name):
        return [Video(name, Path(Path(name).name))]
    if is_list(name):
        if is_sharded(name):
            raise UserError(f"{name}: these are tar shards; pass the list that they were made from")
        index = read_index(name, root=root)
        paths = [index.path(number) for number in range(len(index))]
        common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        return [Video(path, Path(os.path.relpath(path, common))) for path in paths]
    if is_single(name):
        if not os.path.exists(name):
            raise UserError(f"{name}: no such file; give the path of a video, a folder or a URL")
        return [Video(name, Path(Path(name).name))]
    passed_over: Counter[str] = Counter()
    if os.path.isdir(name):
        top = Path(name)
        found = [top / path for path in scan_folder(top, passed_over=passed_over)]
        if not found:
            found = [top / path for path in frame_folders(top)]
            passed_over.clear()
    else:
        top, found = _fixed_part(name), _matches(name)
    if without is not None and without.resolve() != top.resolve():
        found = [path for path in found if not path.parent.resolve().is_relative_to(without.resolve())]
    if not found:
        what = "no video file matches this glob" if _is_glob(name) else "no video files in this folder"
        raise UserError(f"{name}: {what} (looked for {list_suffixes()})")
    if passed_over:
        say(f"{name}: {passed_over_text(passed_over)}")
    return [Video(str(path), path.relative_to(top)) for path in found]


def _is_glob(name: str) -> bool:
    return glob.has_magic(name) and not os.path.exists(name)


def _matches(pattern: str) -> list[Path]:
    """Return the videos that match a glob, and those in folders that match it; each once."""
    found: dict[Path, None] = {}
    for match in map(Path, sorted(glob.iglob(pattern, recursive=True))):
        if match.is_dir():
            found |= dict.fromkeys(match / path for path in scan_folder(match))
        elif is_video(match.name):
            found[match] = None
    return list(found)


def _fixed_part(pattern: str) -> Path:
    """Return the folder in front of the first part of a glob that has a wildcard: ``clips/*/a.mp4`` -> ``clips``."""
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def output_files(videos: Sequence[Video], folder: Path) -> list[Path]:
    """Return the file of each annotated video, in the same subfolders; names that clash keep their old suffix.

    Raises:
        UserError: a video would be overwritten, or two would get the same file.
    """
    plain = [folder / video.place.with_suffix(".mp4") for video in videos]
    counts = Counter(plain)
    files = [
        path if counts[path] == 1 else path.with_name(f"{video.place.name}.mp4")
        for path, video in zip(plain, videos, strict=True)
    ]
    if {path.resolve() for path in files} & {Path(video.name).resolve() for video in videos}:
        raise UserError(f"--output {folder}: this would overwrite the input videos; give another folder")
    first: dict[Path, str] = {}
    for path, video in zip(files, videos, strict=True):
        if (other := first.setdefault(path, video.name)) != video.name:
            raise UserError(
                f"--output {folder}: {other} and {video.name} would both become {path}; give the folder that has both"
            )
    return files
