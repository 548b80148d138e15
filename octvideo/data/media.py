"""What is a video, what is an image, and which of them are below a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from octvideo.data.classes import nfc
from octvideo.errors import UserError

__all__ = [
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "frame_folders",
    "frames_in",
    "is_hidden",
    "is_image",
    "is_media",
    "is_video",
    "list_suffixes",
    "passed_over_text",
    "scan_folder",
]

# What FFmpeg reads and people have.
VIDEO_SUFFIXES = frozenset(
    ".3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .gif .ivf .m1v .m2t .m2ts .m2v .m4v .mjpg .mk3d .mkv .mod .mov .mp4 "
    ".mpe .mpeg .mpg .mpv .mts .mxf .nut .ogm .ogv .qt .rm .rmvb .tod .ts .vob .webm .wmv .wtv .xvid .y4m".split()
)
IMAGE_SUFFIXES = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp".split())

_SYSTEM_FOLDERS = frozenset(["$RECYCLE.BIN", "@eaDir", "System Volume Information", "__MACOSX", "lost+found"])


def is_video(name: str) -> bool:
    """Tell whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def is_image(name: str) -> bool:
    """Tell whether a file name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_media(name: str) -> bool:
    """Tell whether a file name has the suffix of a video or an image."""
    return is_video(name) or is_image(name)


def is_hidden(name: str) -> bool:
    """Tell whether a file or a folder is hidden or belongs to the system: ``.git``, ``._clip.mp4``, ``__MACOSX``."""
    return name.startswith(".") or name in _SYSTEM_FOLDERS


def list_suffixes() -> str:
    """Name the suffixes of videos, for messages."""
    return " ".join(sorted(VIDEO_SUFFIXES))


def scan_folder(
    folder: str | Path, wanted: Callable[[str], bool] = is_video, passed_over: Counter[str] | None = None
) -> Iterator[str]:
    """Yield the files below a folder, relative to it, sorted by name.

    Each folder is listed once and no file is opened. Links to folders are followed, circles are not. Hidden and system
    folders and files are passed over.

    Args:
        folder: where to look.
        wanted: which file names to yield.
        passed_over: counts what is passed over, by reason.

    Raises:
        UserError: a folder cannot be listed.
    """
    yield from _scan(str(folder), "", frozenset(), wanted, Counter() if passed_over is None else passed_over)


def _scan(
    folder: str,
    prefix: str,
    above: frozenset[tuple[int, int]],
    wanted: Callable[[str], bool],
    passed_over: Counter[str],
) -> Iterator[str]:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            children = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from None
    here = (status.st_dev, status.st_ino)
    if here in above:
        passed_over["link to a folder above it"] += 1
        return
    for name, is_folder in sorted(children, key=lambda child: nfc(child[0])):
        if is_hidden(name):
            passed_over["hidden or system folder" if is_folder else "hidden file"] += 1
        elif is_folder:
            yield from _scan(os.path.join(folder, name), f"{prefix}{name}/", above | {here}, wanted, passed_over)
        elif wanted(name):
            yield prefix + name
        else:
            passed_over["file of another kind"] += 1


def frames_in(folder: str | Path) -> list[str]:
    """Return the names of a video's frames in a folder, such as img_00001.jpg, in the order of their numbers.

    They are two images or more whose names are numbers behind the same text; optical flow beside them is left out.
    Returns [] for another folder, such as one with videos, or a file.
    """
    try:
        names = [name for name in os.listdir(folder) if not is_hidden(name)]
    except OSError:
        return []
    images = [re.fullmatch(r"(.*?)(\d+)\.\w+", name) for name in names if is_image(name)]
    frames = [match for match in images if match and not match[1].lower().startswith("flow")]
    if len(frames) < 2 or None in images or len({match[1] for match in frames}) > 1 or any(map(is_video, names)):
        return []
    return [match[0] for match in sorted(frames, key=lambda match: int(match[2]))]


def frame_folders(folder: str | Path) -> Iterator[str]:
    """Yield the folders of frames below a folder, relative to it, sorted by name."""
    parents = dict.fromkeys(path.rpartition("/")[0] for path in scan_folder(folder, is_image))
    yield from (parent for parent in parents if parent and frames_in(os.path.join(folder, parent)))


def passed_over_text(passed_over: Counter[str]) -> str:
    """Sum up what a scan passed over, such as ``passed over: 3 hidden files``; "" for nothing."""
    parts = [f"{count} {_plural(what) if count > 1 else what}" for what, count in sorted(passed_over.items())]
    return f"passed over: {', '.join(parts)}" if parts else ""


def _plural(what: str) -> str:
    return what.replace("file", "files").replace("system folder", "system folders").replace("link", "links")
